"""Slices of rows side by side, each on a thread with single-threaded arithmetic.

The products of a chunk are small: several threads inside each of them spend more time waiting for one another than a
thread for each slice of the rows. As many threads as torch has are used, for as long as the work takes; torch's own
setting is as before afterwards, and the sums depend on their number in the last digits only.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from jensen.mixture.rows import Chunk
from jensen.mixture.statistics import Statistics

FEWEST = 2048  # rows that are worth a thread


def side_by_side(function: Callable[[Chunk], Statistics], chunk: Chunk) -> list[Statistics]:
    """The function of consecutive slices of the rows, in order."""
    threads = min(torch.get_num_threads(), len(chunk) // FEWEST)
    if threads <= 1 or chunk.x.device.type != "cpu":
        return [function(chunk)]
    size = -(-len(chunk) // threads)
    slices = [chunk.at(slice(i, i + size)) for i in range(0, len(chunk), size)]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, slices))
    finally:
        torch.set_num_threads(before)  # the workers' 1 is what threads that are yet to come would start with
