"""Where Baum–Welch starts: k-means++ on steps without their order, and a chain that stays where it is half the time.

A sample of steps is clustered into K states (`mixture.seeding`); where a state has M components, its steps once more. The
prior on covariances is that of a mixture, V the covariance inside the clusters of the first start, for all starts. Since
the clusters see no order, states that differ in what follows them and not in what they emit are told apart by EM alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jensen.data.examples import Examples
from jensen.data.space import Levels
from jensen.errors import InputError
from jensen.hmm.chain import Chain
from jensen.hmm.em import Parameters
from jensen.hmm.emission import Counts
from jensen.hmm.layout import Layout, Steps
from jensen.hmm.levels import LevelEmission
from jensen.hmm.normal import NormalEmission
from jensen.mixture.covariance import Covariance
from jensen.mixture.em import Problem as MixtureProblem
from jensen.mixture.prior import Prior, weakly
from jensen.mixture.rows import Chunks, Rows, Scale, scale_of
from jensen.mixture.seeding import Clusters, clusters
from jensen.noise import Noise

STAY = 0.5
SAMPLE = 20000
Start = Callable[[int, int], Parameters]


def _enough(states: int, steps: int) -> None:
    if states > steps:
        raise InputError(f"n_states is {states}, more than the {steps} steps of the training rows; lower it")


def chain_start(states: int) -> Chain:
    """Even first states; half of all transitions to itself, the rest even."""
    even = torch.full((states,), 1 / states, dtype=torch.float64)
    return Chain(even, STAY * torch.eye(states, dtype=torch.float64) + (1 - STAY) * even)


@dataclass
class NormalStarts:
    """Starts for normal emissions.

    Args:
        rows: the sequences.
        layout: of a row.
        covariance: the structure.
        components: M.
        counts: the prior's rows for every component's count.
        prior_rows: the prior's rows for every covariance.
        seed: of the starts.
    """

    rows: Rows
    layout: Layout
    covariance: Covariance
    components: int
    counts: float
    prior_rows: float
    seed: int

    def __post_init__(self) -> None:
        self.chunks = Chunks(Steps(self.rows, self.layout))
        self.scale = scale_of(self.chunks)
        self.priors: dict[int, Prior] = {}

    def __call__(self, states: int, number: int) -> Parameters:
        """Start `number` with so many states."""
        _enough(states, len(self.chunks))
        noise = Noise(self.seed, "hmm", states, number)
        found = clusters(self.chunks, self.scale, states, noise)
        found = found if self.components == 1 else self._parted(found, noise.at("components"))
        if states not in self.priors:
            within, variance = found.within(self.covariance), self.scale.variance
            self.priors[states] = weakly(within, variance, counts=self.counts, rows=self.prior_rows)
        prior = self.priors[states]
        mixture = found.start(MixtureProblem(self.chunks, self.scale, self.covariance, prior))
        share = mixture.weights.view(states, -1)
        weights = (share / share.sum(1, keepdim=True)).flatten()
        emission = NormalEmission(replace(mixture, weights=weights), self.covariance, states, prior, self.scale.mean)
        return Parameters(chain_start(states), emission)

    def _parted(self, found: Clusters, noise: Noise) -> Clusters:
        """Each cluster in M; one with fewer rows than that keeps its rows together."""
        label = found.label * self.components
        for state in range(found.components):
            own = (found.label == state).nonzero()[:, 0]
            if len(own) < self.components:
                continue
            x = torch.where(found.seen[own], found.offset[own] + self.scale.mean, torch.nan)
            chunks = Chunks(Examples(x, own, weight=found.weight[own]))
            inner = clusters(chunks, self.scale, self.components, noise.at(state))
            label[own] += _nearest(found.offset[own], inner)
        return replace(found, components=found.components * self.components, label=label)


def _nearest(offset: Tensor, inner: Clusters) -> Tensor:
    """The inner cluster whose mean is nearest to each row."""
    share = torch.nn.functional.one_hot(inner.label, inner.components).to(offset) * inner.weight[:, None]
    means = (share.T @ inner.offset) / share.sum(0)[:, None].clamp(min=1e-300)
    sd = inner.scale.variance.sqrt()
    return torch.cdist(offset / sd, means / sd).argmin(1)


@dataclass
class LevelStarts:
    """Starts for categorical emissions: clusters of levels as numbers, then their histograms.

    Args:
        rows: the sequences.
        layout: of a row.
        space: the levels.
        pseudo: a.
        seed: of the starts.
    """

    rows: Rows
    layout: Layout
    space: Levels
    pseudo: float
    seed: int

    def __post_init__(self) -> None:
        steps = Steps(self.rows, self.layout)
        n, size = len(steps), SAMPLE
        chosen = torch.arange(n) if n <= size else (Noise(self.seed, "hmm", "sample").uniform(range(size)) * n).long()
        batch = steps.batch(chosen.unique())
        assert batch.weight is not None
        kept = batch.weight > 0
        if not bool(kept.any()):
            raise InputError("no row with a weight above 0 has an observed value; give some")
        self.x, self.weight = batch.x[kept].double(), batch.weight[kept]

    def __call__(self, states: int, number: int) -> Parameters:
        """Start `number` with so many states."""
        _enough(states, len(self.x))
        noise = Noise(self.seed, "hmm", states, number)
        seen = ~self.x.isnan()
        count = seen.sum(0).clamp(min=1)
        mean = self.x.nan_to_num(nan=0.0).sum(0) / count
        variance = ((self.x - mean).square().nan_to_num(nan=0.0)).sum(0) / count
        scale = Scale(float(self.weight.sum()), mean, torch.where(variance > 0, variance, 1.0))
        chunks = Chunks(Examples(self.x, torch.arange(len(self.x)), weight=self.weight))
        found = clusters(chunks, scale, states, noise)
        x = torch.where(found.seen, found.offset + mean, torch.nan)
        share = torch.nn.functional.one_hot(found.label, states).double() * found.weight[:, None]
        even = torch.full((states, self.layout.dims, self.space.k), 1 / self.space.k, dtype=torch.float64)
        blank = LevelEmission(even, self.space, self.pseudo)
        expected = blank.expect(x[None], share.T[None])
        return Parameters(chain_start(states), blank.maximise(Counts(expected.levels + 0.5)))
