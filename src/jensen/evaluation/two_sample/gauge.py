"""Test rows, and all that samples are held against: made once for a split, for any number of models.

The training rows are parted at random. As many as there are test rows stand in for samples (the ceiling: what a perfect model would show at
this sample size). The others are the reference: units, directions, kernel width and features come from them, so that test rows and ceiling
rows are strangers to all of it alike, and p-values are exact. Copies are looked for among all training rows.
"""

import torch
from torch import Tensor

from jensen.data.examples import Examples, Split
from jensen.distributions.divergence.permutations import labels
from jensen.distributions.divergence.samples import median_distance
from jensen.errors import InputError
from jensen.evaluation.images import is_image
from jensen.evaluation.two_sample.classifier import Waves, classifier
from jensen.evaluation.two_sample.extractor import Extractor, principal, scaled
from jensen.evaluation.two_sample.frechet import frechet, kernel_distance
from jensen.evaluation.two_sample.manifold import manifold
from jensen.evaluation.two_sample.measure import Measure
from jensen.evaluation.two_sample.memory import Memory
from jensen.evaluation.two_sample.network import labelled
from jensen.evaluation.two_sample.pairs import pairs
from jensen.evaluation.two_sample.sliced import sliced
from jensen.noise import Noise

LEAST, FEW, ROWS, MOST_REFERENCE = 20, 100, 2000, 20_000
LEAST_A_CLASS = 10
PERMUTATIONS = 199


def enough(split: Split, wanted: int | None, most: int = ROWS) -> int:
    """How many rows of each sample: what is wanted, or as many as there are test rows, at most half of the training rows and `most`.

    Raises:
        InputError: missing cells, weights, or too few rows.
    """
    for part in (split.train, split.test):
        if part.x.is_floating_point() and bool(part.x.isnan().any()):
            raise InputError("two-sample measures need complete rows, and some have missing cells; impute them first")
        if part.weight is not None:
            raise InputError("two-sample measures count every row once, and these have weights; leave the weights out")
    have = min(len(split.test), len(split.train) // 2)
    count = min(have, most) if wanted is None else wanted
    if have < LEAST:
        raise InputError(
            f"two-sample measures need at least {LEAST} test rows and {2 * LEAST} training rows, and there are {len(split.test)} and {len(split.train)}"
        )
    if not LEAST <= count <= have:
        raise InputError(
            f"two-sample measures need from {LEAST} rows to as many as the test rows and half of the training rows, {have}, got {count}"
        )
    return count


class Gauge:
    """What samples are measured with.

    Args:
        split: the data.
        count: rows of each sample, from `enough`.
        seed: of the choice of rows, directions, features, permutations.
        extractor: of features; if None a network trained on the labels where there are any, else principal components.
    """

    def __init__(self, split: Split, count: int, seed: int = 0, extractor: Extractor | None = None) -> None:
        self.count, self.seed = count, seed
        order = Noise(seed, "two samples", "train").permutation(len(split.train))
        ceiling, reference = split.train.x[order[:count]], split.train.take(order[count : count + MOST_REFERENCE])
        real = split.test.x[Noise(seed, "two samples", "test").permutation(len(split.test))[:count]]
        self.vectors = scaled(reference.x, not is_image(split.event_shape))
        self.extractor = extractor or self._features(reference, split.valid)
        own = self.vectors(reference.x)
        self.waves, self.width = Waves(own, seed), median_distance(own, seed)
        self.real, self.features = self.vectors(real), self.extractor(real)
        self.labels = labels(count, count, PERMUTATIONS, seed)
        self.memory = Memory(self.vectors(split.train.x), self.real, seed)
        self.ceiling = self._of(ceiling)

    def measures(self, drawn: Tensor) -> list[Measure]:
        """All measures of `count` samples in data units."""
        return [*self._of(drawn), *self.memory.measures(self.vectors(drawn))]

    def _of(self, drawn: Tensor) -> list[Measure]:
        """Those that do not look for copies of training rows."""
        vectors, features = self.vectors(drawn), self.extractor(drawn)
        told = f"features {self.extractor.name}"
        return [
            classifier(self.real, vectors, self.waves, self.labels, self.seed),
            *pairs(self.real, vectors, self.width, self.labels),
            sliced(self.real, vectors, self.labels, self.seed),
            frechet(self.features, features, self.labels, told),
            kernel_distance(self.features, features, told),
            *manifold(self.features, features),
        ]

    def _features(self, reference: Examples, valid: Examples) -> Extractor:
        """A network of the labels, where each class has rows enough."""
        own, fresh = reference.context, valid.context
        if own is None or fresh is None or own.ndim != 1 or own.is_floating_point() or len(fresh) < LEAST_A_CLASS:
            return principal(reference.x, self.vectors)
        counts = torch.bincount(own.long())
        if len(counts) < 2 or int(counts.min()) < LEAST_A_CLASS:
            return principal(reference.x, self.vectors)
        return labelled(reference.x, own.long(), self.vectors, (valid.x, fresh.long()), self.seed)

    @property
    def caution(self) -> str | None:
        """What the sample sizes do not allow."""
        told = []
        if self.count < FEW:
            told.append(f"{self.count} rows of each are few: only large differences can be seen")
        if self.count <= self.features.shape[1]:
            told.append(
                f"{self.count} rows are too few for a covariance of {self.features.shape[1]} features: frechet is mostly noise"
            )
        return "; ".join(told) or None
