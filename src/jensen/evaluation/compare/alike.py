"""The two-sample measures of a comparison as cells: a line a model, what training rows reach first, the likelihood aside."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jensen.evaluation.numbers import part
from jensen.evaluation.two_sample.measure import Measure, measures_from
from jensen.evaluation.two_sample.table import LEGEND

NONE = "–"
CEILING = "train (ceiling)"
SHORT = ("classifier", "energy U", "frechet", "precision", "coverage", "C_T")
GROUPS = {
    "Can they be told apart?": ("classifier", "energy", "energy U", "mmd", "sliced wasserstein"),
    "In the feature space": ("frechet", "kernel distance"),
    "Where data are, and everywhere data are?": ("precision", "recall", "density", "coverage"),
    "Copies of training rows?": ("neighbour ratio", "C_T"),
}
Record = Mapping[str, Any]


def measured(record: Record) -> bool:
    """Whether any model's samples were measured."""
    return bool(part(record, "samples", "ceiling"))


def cells(record: Record, names: Sequence[str]) -> list[list[str]]:
    """Head and lines of the measures named."""
    lines = list(_lines(record))
    heads = {m.name: m.told for _, found in lines for m in found.values()}
    return [
        ["model", *(heads.get(name, name) for name in names)],
        *([word, *(str(found[name]) if name in found else NONE for name in names)] for word, found in lines),
    ]


def _lines(record: Record) -> Iterator[tuple[str, dict[str, Measure]]]:
    """Ceiling and models with their measures by name."""
    yield CEILING, _by_name(part(record, "samples", "ceiling"))
    for row in record["models"]:
        if part(row, "samples", "measures"):
            yield row["model"], _by_name(row["samples"]["measures"])


def _by_name(measures: Record) -> dict[str, Measure]:
    return {m.name: m for m in measures_from(measures)}


def problems(record: Record) -> list[str]:
    """Why samples were not measured, each once."""
    every = part(record, "samples").get("problem")
    if every:
        return [f"samples are not measured: {every}"]
    return [
        f"{row['model']}'s samples are not measured: {row['samples']['problem']}"
        for row in record["models"]
        if part(row, "samples").get("problem")
    ]


def explained(record: Record) -> str:
    """What the measures are."""
    about = record["samples"]
    caution = f" {about['caution']}." if about["caution"] else ""
    return (
        f"samples against test rows, {about['rows']:,} of each, seed {about['seed']}; features {about['features']}.{caution} "
        f"{CEILING}: training rows in their place, what a perfect model would show. {LEGEND}"
    )
