"""All measures of a model's samples, beside what can be reached and what is easily reached.

model      its samples against test rows
train      training rows against the same test rows: the ceiling
controls   samples of `independent` and `gaussian`, fitted to the training rows: the floor
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jensen.data.examples import Split
from jensen.errors import InputError
from jensen.evaluation.drawing import drawing_steps
from jensen.evaluation.likelihood import CONTROLS, train_and_test
from jensen.evaluation.two_sample.extractor import Extractor
from jensen.evaluation.two_sample.gauge import ROWS, Gauge, enough
from jensen.evaluation.two_sample.measure import Measure, as_dict, measures_from
from jensen.evaluation.two_sample.memory import likelihood_gap
from jensen.fitting import fit
from jensen.models.chain import ChainModel
from jensen.models.model import DensityModel
from jensen.models.pipeline import Pipeline

CHAIN_ROWS = 256
GAP_ROWS, CHAIN_GAP_ROWS = 1000, 64


@dataclass(frozen=True)
class TwoSamples:
    """Measures by column, "model" first, then "train" (the ceiling) and the controls (the floor).

    Attributes:
        columns: the measures of each.
        rows: how many rows there are of each sample.
        features: the extractor's name and hash.
        how: how the model's samples were drawn.
        seed: of everything.
        caution: what the sample sizes do not allow.
        protocol: of the test rows.
    """

    columns: Mapping[str, list[Measure]]
    rows: int
    features: str
    how: str
    seed: int
    caution: str | None = None
    protocol: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows": self.rows,
            "features": self.features,
            "how": self.how,
            "seed": self.seed,
            "caution": self.caution,
            "protocol": self.protocol,
            "measures": {name: as_dict(found) for name, found in self.columns.items()},
        }

    def cells(self) -> list[list[str]]:
        """A table to read, its first line the columns' names; – where a column has no such measure."""
        columns = {name: {m.name: m for m in found} for name, found in self.columns.items()}
        head = ["", *(HEADS.get(name, name) for name in columns)]
        return [
            head,
            *(
                [m.told, *(str(found[m.name]) if m.name in found else "–" for found in columns.values())]
                for m in self.columns["model"]
            ),
        ]

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> "TwoSamples":
        """The inverse of `to_dict`.

        Raises:
            InputError: what was found is none.
        """
        try:
            columns = {str(name): measures_from(measures) for name, measures in found["measures"].items()}
            features, how, caution = str(found["features"]), str(found["how"]), found["caution"]
            if "model" not in columns:
                raise KeyError("model")
            protocol = str(found.get("protocol", ""))
            return TwoSamples(columns, int(found["rows"]), features, how, int(found["seed"]), caution, protocol)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"two-sample measures cannot be read: {type(error).__name__}: {str(error)[:80]}"
            ) from error

    def lines(self) -> list[str]:
        """The table in text."""
        return aligned(self.cells())

    def explained(self) -> str:
        """What the columns are."""
        protocol = f" ({self.protocol})" if self.protocol else ""
        return (
            f"{self.rows} rows of each sample against as many test rows{protocol}, seed {self.seed}; samples {self.how}; features {self.features}. "
            f"train: training rows in place of samples, what a perfect model would show. {LEGEND}"
        )


HEADS = {"train": "train (ceiling)"}
LEGEND = (
    "↓ lower is better, ↑ higher, → near ½ (classifier), 0 (energy U, mmd, kernel distance, gap, C_T) or 1 (density, neighbour ratio); "
    "± is one standard error; p: that both are of one law, by permutation."
)


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of one width each."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]


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
        rows: of each sample; if None as many as there are test rows, at most half of the training rows, at most 2,000 (256 of diffusion models).
        seed: of samples, choice of rows, permutations.
        extractor: of features; if None a network trained on the labels where there are any, else principal components.
        on_step: told what is being done.

    Raises:
        InputError: too few rows, rows with missing cells or with weights.
    """
    count = enough(split, rows, most_rows(pipeline))
    on_step("measuring training rows")
    gauge = Gauge(split, count, seed, extractor)
    on_step("drawing samples")
    drawn, how = draw_rows(pipeline, count, seed)
    on_step("measuring samples")
    columns = {"model": [*gauge.measures(drawn), *_gap(pipeline, split, seed)], "train": gauge.ceiling}
    for word in CONTROLS:
        if word != pipeline.config["model"]["word"]:
            on_step(f"measuring {word}")
            columns |= _control(word, gauge, split, seed)
    return TwoSamples(columns, count, features_of(gauge), how, seed, gauge.caution, split.test.protocol)


def features_of(gauge: Gauge) -> str:
    """The extractor's name and hash."""
    return f"{gauge.extractor.name} ({gauge.extractor.digest})"


def _control(word: str, gauge: Gauge, split: Split, seed: int) -> dict[str, list[Measure]]:
    """The measures of a control, nothing where it does not take such data."""
    try:
        pipeline = fit(split, word, seed=seed, progress=False)
        return {word: [*gauge.measures(pipeline.sample(gauge.count, seed=seed)), *_gap(pipeline, split, seed)]}
    except InputError:
        return {}


def _gap(pipeline: Pipeline, split: Split, seed: int) -> list[Measure]:
    """Training minus test log p, where there is a likelihood."""
    if not isinstance(pipeline.model, DensityModel):
        return []
    found = train_and_test(pipeline, split, seed, GAP_ROWS if drawing_steps(pipeline) is None else CHAIN_GAP_ROWS)
    return [likelihood_gap(found["train"], found["test"])]


def most_rows(pipeline: Pipeline) -> int:
    """How many samples are drawn at most without being asked for more."""
    return ROWS if drawing_steps(pipeline) is None else CHAIN_ROWS


@torch.no_grad()
def draw_rows(pipeline: Pipeline, count: int, seed: int) -> tuple[Tensor, str]:
    """Samples, and how they were drawn."""
    steps, model = drawing_steps(pipeline), pipeline.model
    if steps is None or not isinstance(model, ChainModel):
        return pipeline.sample(count, seed=seed), f"{model.draws}, seed {seed}"
    sampler = model.sampler(model.best_sampler(steps))
    rows = pipeline.sample(count, seed=seed, sampler=sampler, steps=steps)
    return rows, f"drawn by {sampler.describe(steps, pipeline.space)}, seed {seed}"
