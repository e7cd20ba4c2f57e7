"""Pieces of work side by side, each on a thread with single-threaded arithmetic.

The products of a piece are small: several threads inside each of them spend more time waiting for one another than a
thread for each piece. As many threads as torch has are used; torch's own setting is as before afterwards.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def in_parallel(function: Callable[[A], B], pieces: Iterable[A]) -> Iterator[B]:
    """The function of every piece, in order; at most as many pieces at a time as torch has threads."""
    before, left = torch.get_num_threads(), iter(pieces)
    first = list(itertools.islice(left, before))
    if len(first) <= 1:
        yield from map(function, itertools.chain(first, left))
        return
    try:
        with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            group = first
            while group:
                yield from pool.map(function, group)
                group = list(itertools.islice(left, before))
    finally:
        torch.set_num_threads(before)  # the workers' 1 is what threads that are yet to come would start with
