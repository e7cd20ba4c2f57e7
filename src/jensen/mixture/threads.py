"""Slices of rows side by side (`jensen.threads`); sums depend on their number in the last digits only."""

from collections.abc import Callable

import torch

from jensen.mixture.rows import Chunk
from jensen.mixture.statistics import Statistics
from jensen.threads import in_parallel

FEWEST = 2048  # rows that are worth a thread


def side_by_side(function: Callable[[Chunk], Statistics], chunk: Chunk) -> list[Statistics]:
    """The function of consecutive slices of the rows, in order."""
    threads = min(torch.get_num_threads(), len(chunk) // FEWEST)
    if threads <= 1 or chunk.x.device.type != "cpu":
        return [function(chunk)]
    size = -(-len(chunk) // threads)
    slices = [chunk.at(slice(i, i + size)) for i in range(0, len(chunk), size)]
    return list(in_parallel(function, slices))
