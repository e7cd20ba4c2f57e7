"""What a fitted model says of rows: log p(x), states, paths, filled cells, samples; sequences go through in blocks.

Every block has one shape, the last filled up with zeros: products of matrices choose their order of summation by shape, so
the bits of a row do not depend on its company.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.hmm.chain import Passes
from jensen.hmm.em import Parameters
from jensen.hmm.emission import Emission
from jensen.hmm.layout import Layout, lengths
from jensen.hmm.markov import Path, posterior, prior
from jensen.hmm.recursion import passes
from jensen.hmm.sequences import at_once, over_blocks
from jensen.hmm.viterbi import viterbi
from jensen.noise import Noise


@dataclass(frozen=True)
class Inference:
    """A model and the rows it speaks of.

    Args:
        now: the model.
        layout: of a row.
        width: numbers a step that a block holds: states and components, or cells.
    """

    now: Parameters
    layout: Layout
    width: int

    @property
    def emission(self) -> Emission:
        """Of the model."""
        return self.now.emission

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p of the observed cells of rows, `(B,)`."""
        return self._in_blocks(lambda steps: self._passes(steps).log_evidence, x)

    def posterior(self, x: Tensor) -> Tensor:
        """p(z_t = k | x), `(B, T, K)`."""
        return self._in_blocks(lambda steps: self._passes(steps).posterior().permute(2, 0, 1), x)

    def states(self, x: Tensor) -> Tensor:
        """The most probable paths, `(B, T)`."""

        def best(steps: Tensor) -> Tensor:
            return viterbi(self.now.chain, self.emission.log_prob(steps), lengths(steps))[0].T

        return self._in_blocks(best, x)

    def path_given(self, steps: Tensor) -> Path:
        """p(z | x) of steps `(T, B, d)`."""
        log_b = self.emission.log_prob(steps)
        return posterior(self.now.chain, log_b, passes(self.now.chain, log_b, lengths(steps)))

    def sample(self, ids: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Rows and their paths `(n, T)`: p(z), then p(x | z)."""
        n, times = len(ids), self.layout.times
        z = prior(self.now.chain, n, times).at(noise.at("states").uniform(ids, (times,)))
        u, eps = self._draws(noise, ids)
        x = self.emission.draw(z.flatten(), u, eps).view(n, times, -1)
        return self.layout.rows(x.transpose(0, 1)), z

    def filled(self, x: Tensor) -> Tensor:
        """Rows with E[x_m | x_o]."""
        return self._rows(self.emission.fill(self._flat(x), self.posterior(x).flatten(0, 1)), x)

    def filled_by_chance(self, x: Tensor, ids: Tensor, noises: list[Noise]) -> Tensor:
        """Rows with a draw from p(x_m | x_o) for each noise: a path from p(z | x), then cells."""
        flat, times = self._flat(x), self.layout.times
        paths = self._drawn_paths(x, [noise.at("states").uniform(ids, (times,)) for noise in noises])
        made = (
            self.emission.fill_by_chance(flat, z.flatten(), *self._draws(noise, ids))
            for z, noise in zip(paths, noises, strict=True)
        )
        return torch.stack([self._rows(part, x) for part in made])

    def _passes(self, steps: Tensor) -> Passes:
        return passes(self.now.chain, self.emission.log_prob(steps), lengths(steps))

    def _flat(self, x: Tensor) -> Tensor:
        """Steps, sequence after sequence."""
        return self.layout.steps(x).transpose(0, 1).flatten(0, 1)

    def _rows(self, flat: Tensor, x: Tensor) -> Tensor:
        """And back."""
        return self.layout.rows(flat.view(len(x), self.layout.times, -1).transpose(0, 1))

    def _draws(self, noise: Noise, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The noise of every step of every row, `(B·T, …)`."""
        times, emission = self.layout.times, self.emission
        u = noise.at("choice").uniform(ids, (times, emission.uniforms)).flatten(0, 1)
        return u, noise.at("normal").normal(ids, (times, emission.normals)).double().flatten(0, 1)

    def _drawn_paths(self, x: Tensor, draws: list[Tensor]) -> list[Tensor]:
        """Paths from p(z | x) that each `u (B, T)` picks."""
        size = self._size
        parts: list[list[Tensor]] = [[] for _ in draws]
        for start in range(0, len(x), size):
            law = self.path_given(self._block(x[start : start + size], size))
            for u, paths in zip(draws, parts, strict=True):
                own = u[start : start + size]
                padded = torch.cat([own, own.new_zeros(size - len(own), own.shape[1])])
                paths.append(law.at(padded)[: len(own)])
        return [torch.cat(paths) for paths in parts]

    @property
    def _size(self) -> int:
        """Rows a block."""
        return at_once(self.layout.times, max(self.width, self.layout.dims))

    def _block(self, part: Tensor, size: int) -> Tensor:
        """The steps of some rows, filled up to `size` sequences."""
        missing = size - len(part)
        whole = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
        return self.layout.steps(whole).double()

    def _in_blocks(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A function of steps `(T, B, d)`, with sequences first in what it gives, of rows. A block is made on the thread that
        works on it: torch's own threads, once woken for a copy, spin for a while in the way of ours.
        """
        size = self._size
        parts = over_blocks(lambda part: function(self._block(part, size)), x.split(size), self.now.chain.states)
        return torch.cat(list(parts))[: len(x)]
