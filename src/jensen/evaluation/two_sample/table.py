"""All measures of a model's samples, beside what can be reached and what is easily reached.

    model      its samples against test rows
    train      training rows against the same test rows: the ceiling, what a perfect model would show at this sample size
    controls   samples of `independent` and `gaussian`, fitted to the training rows: the floor

Missing cells have no distance, so rows with any are refused. The log-likelihood gap between training and test rows stands with the
likelihood (`evaluation.likelihood.self_check`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.data.examples import Split
from jensen.distributions.divergence import between_samples
from jensen.distributions.divergence.result import Divergence
from jensen.errors import InputError
from jensen.evaluation.drawing import drawing_steps
from jensen.evaluation.images import is_image
from jensen.evaluation.likelihood import CONTROLS
from jensen.evaluation.two_sample.classifier import classifier
from jensen.evaluation.two_sample.extractor import Extractor, principal, scaled
from jensen.evaluation.two_sample.frechet import frechet, kernel
from jensen.evaluation.two_sample.manifold import manifold
from jensen.evaluation.two_sample.measure import Measure
from jensen.evaluation.two_sample.memory import memory
from jensen.evaluation.two_sample.sliced import sliced
from jensen.fitting import fit
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise

ROWS, CHAIN_ROWS, FEW = 2000, 256, 100
MOST_TRAIN = 20_000
PERMUTATIONS = 199


@dataclass(frozen=True)
class TwoSamples:
    """Measures by column, "model" first, then "train" (the ceiling) and the controls (the floor).

    Attributes:
        columns: the measures of each.
        rows: how many rows there are of each sample.
        features: the extractor's name and hash.
        how: how the model's samples were drawn.
        seed: of everything.
    """

    columns: Mapping[str, list[Measure]]
    rows: int
    features: str
    how: str
    seed: int

    @property
    def caution(self) -> str | None:
        """What the sample sizes do not allow."""
        if self.rows >= FEW:
            return None
        return f"{self.rows} rows of each are few: only large differences can be seen"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows": self.rows,
            "features": self.features,
            "how": self.how,
            "seed": self.seed,
            "caution": self.caution,
            "measures": {name: {m.name: m.to_dict() for m in found} for name, found in self.columns.items()},
        }

    def cells(self) -> list[list[str]]:
        """A table to read, its first line the columns' names."""
        names = list(self.columns)
        head = ["", *(HEADS.get(name, name) for name in names)]
        measures = enumerate(self.columns["model"])
        return [
            head,
            *([f"{m.name} {ARROWS[m.better]}", *(str(self.columns[name][n]) for name in names)] for n, m in measures),
        ]

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> "TwoSamples":
        """The inverse of `to_dict`.

        Raises:
            InputError: what was found is none.
        """
        try:
            columns = {
                str(name): [Measure.from_dict(word, m) for word, m in measures.items()]
                for name, measures in found["measures"].items()
            }
            return TwoSamples(
                columns, int(found["rows"]), str(found["features"]), str(found["how"]), int(found["seed"])
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"two-sample measures cannot be read: {type(error).__name__}: {str(error)[:80]}"
            ) from error

    def lines(self) -> list[str]:
        """The table in text."""
        cells = self.cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]

    def explained(self) -> str:
        """What the columns are."""
        return (
            f"{self.rows} rows of each sample against as many test rows, seed {self.seed}; samples {self.how}; features {self.features}. "
            "train: training rows in place of samples, what a perfect model would show. ↓ lower is better, ↑ higher, → near "
            "½ (classifier), 0 (mmd, kernel distance, C_T) or 1 (density, neighbour ratio); p: of one law, by permutation."
        )


HEADS = {"train": "train (ceiling)"}
ARROWS = {"lower": "↓", "higher": "↑", "near": "→"}


def two_samples(
    pipeline: Pipeline,
    split: Split,
    *,
    rows: int | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
    on_step: Callable[[str], None] = lambda what: None,
) -> TwoSamples:
    """Measure a model's samples.

    Args:
        pipeline: the model.
        split: its data.
        rows: of each sample; as many as there are test and training rows, at most 2,000 (256 of diffusion models), if None.
        seed: of samples, choice of rows, permutations.
        extractor: of features; principal components of the training rows if None.
        on_step: told what is being done.

    Raises:
        InputError: too few rows, or rows with missing cells.
    """
    count = _rows(pipeline, split, rows)
    real = _chosen(split.test.x, count, seed, "test")
    train = _chosen(split.train.x, MOST_TRAIN, seed, "train")
    on_step("drawing samples")
    drawn, how = _drawn(pipeline, count, seed)
    samples: dict[str, Tensor] = {"model": drawn, "train": _chosen(split.train.x, count, seed, "ceiling")}
    for word in CONTROLS:
        if word != pipeline.config["model"]["word"]:
            try:
                samples[word] = fit(split, word, seed=seed, progress=False).sample(count, seed=seed)
            except InputError:
                continue
    gauge = _Gauge(real, train, not is_image(split.event_shape), extractor or principal(train), seed)
    columns = {}
    for name, sample in samples.items():
        on_step(f"measuring {name}")
        columns[name] = gauge.measures(sample, itself=name == "train")
    return TwoSamples(columns, count, f"{gauge.extractor.name} ({gauge.extractor.digest})", how, seed)


class _Gauge:
    """Test rows, and all that samples are held against."""

    def __init__(self, real: Tensor, train: Tensor, columns: bool, extractor: Extractor, seed: int) -> None:
        self.extractor, self.seed = extractor, seed
        self.vectors = scaled(train, columns)
        self.real, self.train, self.features = self.vectors(real), self.vectors(train), extractor(real)
        self.told = f"features {extractor.name}"

    def measures(self, drawn: Tensor, *, itself: bool) -> list[Measure]:
        """All of one sample; training rows are not looked for among training rows."""
        vectors, features = self.vectors(drawn), self.extractor(drawn)
        found = [
            classifier(self.real, vectors, seed=self.seed),
            self._between("energy", vectors),
            self._between("mmd", vectors),
            sliced(self.real, vectors, seed=self.seed),
            frechet(self.features, features, self.told),
            kernel(self.features, features, self.told),
            *manifold(self.features, features),
        ]
        if itself:
            return [*found, *(_not_applicable(name) for name in ("neighbour ratio", "C_T"))]
        return [*found, *memory(self.train, self.real, vectors, self.seed)]

    def _between(self, kind: str, drawn: Tensor) -> Measure:
        found = between_samples(self.real, drawn, kind, permutations=PERMUTATIONS, seed=self.seed)
        return _as_measure(found, "lower" if kind == "energy" else "near")


def _as_measure(found: Divergence, better: Any) -> Measure:
    target = 0.0 if found.kind == "mmd" else None
    return Measure(found.kind, found.value, better, target, p_value=found.p_value, note=found.note or "")


def _not_applicable(name: str) -> Measure:
    return Measure(name, float("nan"), "near", note="of training rows themselves it says nothing")


def _rows(pipeline: Pipeline, split: Split, wanted: int | None) -> int:
    """How many rows of each sample."""
    for part in (split.train, split.test):
        if part.x.is_floating_point() and bool(part.x.isnan().any()):
            raise InputError("two-sample measures need complete rows, and some have missing cells; impute them first")
    have = min(len(split.test), len(split.train))
    most = CHAIN_ROWS if drawing_steps(pipeline) is not None else ROWS
    count = min(have, most) if wanted is None else wanted
    if not 20 <= count <= have:
        raise InputError(
            f"two-sample measures need from 20 rows to as many as the test rows and the training rows, {have}, got {count}"
        )
    return count


def _chosen(x: Tensor, count: int, seed: int, what: str) -> Tensor:
    return x[Noise(seed, "two samples", what).permutation(len(x))[:count]]


@torch.no_grad()
def _drawn(pipeline: Pipeline, count: int, seed: int) -> tuple[Tensor, str]:
    steps = drawing_steps(pipeline)
    if steps is None:
        return pipeline.sample(count, seed=seed), f"drawn exactly, seed {seed}"
    return pipeline.sample(count, seed=seed, steps=steps), f"drawn in {steps} steps, seed {seed}"
