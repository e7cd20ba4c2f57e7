"""Sequences in blocks: as many at a time as keep memory bounded, read once where they are few."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from jensen.errors import InputError
from jensen.hmm.layout import Layout, lengths
from jensen.mixture.rows import Rows
from jensen.threads import in_parallel

KEPT_CELLS = 1 << 25  # 256 MiB in float64
BLOCK_CELLS = 1 << 19  # numbers of one (T, K, B) tensor
MOST, FEW = 512, 8
LARGE = 64
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Block:
    """`steps (T, B, d)` float64, `lengths (B,)`, `weight (B,)` float64."""

    steps: Tensor
    lengths: Tensor
    weight: Tensor


def at_once(times: int, width: int) -> int:
    """How many sequences of so many steps and numbers a step to hold at a time; one where it would be a few, since the last
    block is filled up.
    """
    size = min(MOST, BLOCK_CELLS // (times * width))
    return size if size >= FEW else 1


def over_blocks(function: Callable[[A], B], blocks: Iterable[A], states: int) -> Iterator[B]:
    """The function of every block, in order, side by side; a block's bits do not depend on how many there are. A lone block
    with fewer than `LARGE` states is one thread's work too: its products are too small to share.
    """
    _keep_the_heap()
    left = iter(blocks)
    first = list(itertools.islice(left, 2))
    if len(first) == 1 and states < LARGE:
        yield _on_one_thread(function, first[0])
        return
    yield from in_parallel(function, itertools.chain(first, left))


def _on_one_thread(function: Callable[[A], B], block: A) -> B:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(block)
    finally:
        torch.set_num_threads(before)


def _keep_the_heap() -> None:
    """Allocate and free 30 MB without touching them. A block's tensors of a few MB come and go; glibc returns such memory to
    the system each time and gets it back page by page, which costs as much as the arithmetic, until it has seen a larger
    piece freed (mallopt(3), "dynamic mmap threshold"). Elsewhere this does nothing.
    """
    torch.empty(30 << 20, dtype=torch.uint8)


class Sequences:
    """Rows of sequences.

    Args:
        rows: where they come from, in the model's units.
        layout: of a row.
        states: K, or the most there will be.
    """

    def __init__(self, rows: Rows, layout: Layout, states: int) -> None:
        if len(rows) == 0:
            raise InputError("there are no rows to fit; give at least one")
        self.rows, self.layout = rows, layout
        self.size = at_once(layout.times, max(states, layout.dims))
        few = len(rows) * layout.times * layout.dims <= KEPT_CELLS
        self.kept = list(self._read()) if few else None
        self.weight, self.steps = self._count()

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[Block]:
        """All sequences, in one order in every pass."""
        return iter(self.kept) if self.kept is not None else self._read()

    def _read(self) -> Iterator[Block]:
        for start in range(0, len(self.rows), self.size):
            batch = self.rows.batch(slice(start, start + self.size))
            steps = self.layout.steps(batch.x.double())
            weight = steps.new_ones(len(batch.x)) if batch.weight is None else batch.weight.to(steps)
            if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
                raise InputError("weights must be finite and at least 0; drop or mend such rows")
            if bool(steps.isinf().any()):
                raise InputError("a value is infinite; drop or mend such rows")
            yield Block(steps, lengths(steps), weight)

    def _count(self) -> tuple[float, float]:
        """Σ w, and Σ w times the number of steps with an observed cell."""
        weight = steps = 0.0
        for block in self.blocks():
            weight += float(block.weight.sum())
            steps += float(((~block.steps.isnan().all(2)) * block.weight).sum())
        if steps == 0:
            raise InputError("no row with a weight above 0 has an observed value; give some")
        return weight, steps
