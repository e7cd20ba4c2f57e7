"""How a model with a latent code is scored: its ELBO, importance sampling, annealing, and where the gap between them goes.

Everything about networks and training is its heir's; the bounds stand in `jensen.bounds`, and which of them there are in `jensen.vae.methods`.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jensen.bounds.annealed import Sandwich
from jensen.data.examples import Batch
from jensen.distributions.conditional import require_unbiased
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood
from jensen.models.model import LatentModel, OnCalls, nothing, row_ids, sample_ids
from jensen.noise import Noise
from jensen.vae.emission import Emitted
from jensen.vae.gap import DRAWS, STEPS, Gap, certified, gap_of
from jensen.vae.likelihood import Asked, Estimate, elbo_of
from jensen.vae.methods import (
    IWAE_DRAWS,
    MOST_PLANNED,
    MOST_TERMS,
    PILOT,
    checked_draws,
    estimated,
    refuse_others,
    settings_of,
)
from jensen.vae.parts import Parts
from jensen.vae.posterior import Posterior, TwoLayers

CELLS_AT_ONCE = 1 << 22  # numbers of a decoder that are held together
ROWS = 64  # scored together: the log-weights of so many rows are held


class ScoredByDraws(LatentModel):
    """log p(x) by draws of q(z | x).

    Attributes:
        parts: prior, emission and posterior.
        numbers_a_row: how many numbers a row takes in the decoder.
    """

    methods = ("elbo", "iwae", "ais")
    parts: Parts
    numbers_a_row: int

    @abstractmethod
    def trained(self) -> str:
        """How it was trained, if not by a bound on log p(x)."""

    @abstractmethod
    def classes_to_draw(self, context: Tensor | None, ids: Tensor, noise: Noise) -> Tensor:
        """The classes to draw from; of a model without them nothing is looked at."""

    @property
    def cells(self) -> int:
        """Of a row."""
        return math.prod(self.event_shape)

    def emitted(self, z: Tensor, context: Tensor | None = None) -> Emitted:
        """p(x | z)."""
        emitted = self.parts.given(context).emission(z)
        assert isinstance(emitted, Emitted)
        return emitted

    def _together(self, rows: int) -> int:
        """How many draws of z for that many rows are looked at together."""
        return max(1, CELLS_AT_ONCE // (max(1, rows) * self.numbers_a_row))

    def _rows(self, draws: int) -> int:
        """How many rows, with so many draws of each, are differentiated together."""
        return max(1, min(ROWS, CELLS_AT_ONCE // (draws * self.numbers_a_row)))

    def _asked(self, x: Tensor, context: Tensor | None, ids: Tensor, noise: Noise) -> Asked:
        return Asked(self.parts.given(context), x.double(), ids, noise, self._together(len(x)))

    @torch.no_grad()
    def plan(
        self, pilot: Batch, rows: int, *, method: str | None = None, tolerance: float, seed: int, **options: Any
    ) -> dict[str, Any]:
        """For the elbo draws that reach the tolerance, at least 8, from a pilot that is used for nothing else; at most 10,000 a row, and
        1,000 of a prior that is told by one random term of its bound: the error bar is then larger, and says so. The other methods'
        numbers of draws are what was asked for.
        """
        method = self.method_or_default(method)
        refuse_others(method, options)
        if method == "elbo" and options.get("repetitions") is None:
            self.eval()
            found = elbo_of(
                self._asked(pilot.x, pilot.context, pilot.id, Noise(seed, "elbo", "pilot")), repetitions=PILOT
            )
            enough = float((found.stderr.square() * PILOT).mean()) / (rows * tolerance**2)
            wanted = math.ceil(enough) if math.isfinite(enough) else PILOT
            most = MOST_TERMS if self.parts.prior.noise_dims else MOST_PLANNED
            options["repetitions"] = min(max(PILOT, wanted), most)
        return options

    def cost(self, plan: Mapping[str, Any], method: str | None = None) -> int:
        """How often a row is decoded."""
        method = self.method_or_default(method)
        if method == "ais":
            return settings_of(plan).calls
        repetitions = int(plan.get("repetitions") or 1)
        return repetitions * (int(plan.get("draws") or IWAE_DRAWS) if method == "iwae" else 1)

    def method_or_default(self, method: str | None) -> str:
        """The method, checked; where p(z) is a bound, the elbo alone."""
        word = super().method_or_default(method)
        if word != "elbo":
            require_unbiased(self.prior, self.emission, self.posterior)
        return word

    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        method: str | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        on_calls: OnCalls = nothing,
        repetitions: int | None = None,
        draws: int = IWAE_DRAWS,
        temperatures: int = 100,
        chains: int = 8,
        leapfrogs: int = 5,
        **plan: Any,
    ) -> LogLikelihood:
        """A lower bound on log p(x), in mean over the draws: networks in float32, all else in float64.

        Args:
            x: rows in the model's units.
            context: classes, of a model that takes them.
            method: "elbo"; "iwae", importance sampling; or "ais", annealed importance sampling.
            ids: the rows' ids.
            seed: of the draws.
            on_calls: told how many rows were decoded.
            repetitions: elbo: draws of z a row, at least 2, 8 if None; iwae: independent estimates, 1 if None.
            draws: iwae: k.
            temperatures: ais: T.
            chains: ais: C.
            leapfrogs: ais: L.
            **plan: nothing.
        """
        self.eval()
        word = self.method_or_default(method)
        options = {"draws": draws, "temperatures": temperatures, "chains": chains, "leapfrogs": leapfrogs}
        count = (PILOT if word == "elbo" else 1) if repetitions is None else repetitions
        numbers = checked_draws(word, count, options)
        parts = []
        for at in torch.arange(len(x)).split(self._rows(chains) if word == "ais" else ROWS):
            own = None if context is None else context[at]
            asked = self._asked(x[at], own, row_ids(x, ids)[at], Noise(seed, word))
            parts.append(estimated(word, asked, count, options))
            on_calls(len(at) * self.cost({"repetitions": count, **options}, word))
        found = Estimate.of(parts)
        return LogLikelihood(
            value=found.value,
            given="p(x|y)" if self.parts.classes else "p(x)",
            kind="lower bound",
            measure=self.space.measure,
            of=f"z ~ p(z), x ~ p(x | z{', y' if self.parts.classes else ''})",
            method=word,
            event_shape=self.event_shape,
            stderr=found.stderr,
            terms=found.terms,
            diagnostics={**numbers, "seed": seed, **found.told},
            precision="float32",
            trained=self.trained(),
        )

    def gap(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        seed: int = 0,
        steps: int = STEPS,
        draws: int = 2000,
        on_calls: OnCalls = nothing,
    ) -> Gap:
        """How much of log p(x) - ELBO the family of q has to answer for, and how much the encoder.

        What is held at a time does not grow with rows or draws.

        Args:
            x: rows in the model's units.
            context: classes, of a model that takes them.
            ids: the rows' ids.
            seed: of the draws.
            steps: of the ascent to each row's own best q.
            draws: of z for log p(x).
            on_calls: told how many rows are done.

        Raises:
            InputError: as `check_gap`.
        """
        self.eval()
        posterior = self.check_gap()
        y = None if not self.parts.classes else self.parts.coded(context)
        parts = []
        for at in torch.arange(len(x)).split(self._rows(DRAWS)):
            own = None if context is None else context[at]
            asked = self._asked(x[at], own, row_ids(x, ids)[at], Noise(seed, "gap"))
            parts.append(gap_of(asked, posterior, None if y is None else y[at], steps=steps, draws=draws))
            on_calls(len(at))
        return Gap.of(parts)

    def check_gap(self) -> Posterior:
        """q, if the gap can be taken apart.

        Raises:
            InputError: two layers, of whose q the upper half is a network's by construction; a log p(z) that is a bound.
        """
        if self.prior.log_density == "bound":
            raise InputError(
                "the gap is log p - elbo, and of prior=diffusion no log p is to be had, its log p(z) being a bound; leave it out"
            )
        posterior = self.parts.posterior
        if isinstance(posterior, TwoLayers):
            raise InputError("the gap is taken apart for latent_layers=1 alone, got 2")
        return posterior

    def certified(self, n: int = 64, *, seed: int = 0, **settings: int) -> Sandwich:
        """Bounds from both sides on log p of rows that the model draws itself: how far apart they are says how far its `ais` can be off.

        Args:
            n: how many rows.
            seed: of rows and chains.
            **settings: temperatures, chains and leapfrogs, as for ais.
        """
        self.eval()
        ids, noise = sample_ids(n, 0), Noise(seed, "certified")
        z = self.parts.prior.draw(ids, noise.at("z")).to(self.device)
        y = self.classes_to_draw(None, ids, noise).to(self.device)
        with torch.no_grad():
            x = self.emitted(z, y).draw(noise.at("x").uniform(ids, (self.cells, 2)).to(self.device))
        annealing = settings_of(settings)
        parts = []
        for at in torch.arange(n).split(self._rows(annealing.chains)):
            asked = self._asked(x[at], y[at], ids[at], noise.at("chains"))
            parts.append(certified(asked, z[at], annealing))
        return Sandwich.of(parts)
