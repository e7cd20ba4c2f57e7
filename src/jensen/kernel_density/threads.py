"""Pieces of work side by side, each on a thread with single-threaded arithmetic, as in `mixture.threads`."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def side_by_side(function: Callable[[Tensor], Tensor], pieces: Sequence[Tensor]) -> list[Tensor]:
    """The function of each piece, in order; torch's own number of threads is as before afterwards."""
    threads = min(torch.get_num_threads(), len(pieces))
    if threads <= 1 or pieces[0].device.type != "cpu":
        return [function(piece) for piece in pieces]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, pieces))
    finally:
        torch.set_num_threads(before)  # the workers' 1 is what threads that are yet to come would start with
