"""The table for a terminal, and the amounts as the page shows them too."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jensen.errors import plural
from jensen.evaluation.compare import alike
from jensen.evaluation.numbers import Unit, part, real, unit_of, word
from jensen.likelihood import plus_minus

NONE = "–"
PARTS = (("test", "test"), ("train", "training"))


def lines(record: Mapping[str, Any]) -> list[str]:
    """A comparison's record as lines."""
    rows = record["models"]
    columns = (
        "model",
        "held-out log-likelihood",
        "kind",
        "− best",
        "train − held-out",
        "spread",
        "fit",
        "memory",
        "numbers",
    )
    cells = [[row["model"], quote(row), kind(row), difference(row), gap(row), spread(row), *costs(row)] for row in rows]
    verdicts = [f"  {row['model']}: {row['verdict']['words']}{_more(row)}" for row in rows]
    return [
        about(record),
        *(f"note: {note}" for note in notes(record)),
        "",
        *_aligned([columns, *cells]),
        "",
        *verdicts,
        *once(record),
        "",
        *NOTES,
        *_alike(record),
    ]


def _alike(record: Mapping[str, Any]) -> list[str]:
    """The samples of the models, measured."""
    told = [f"note: {line}" for line in alike.problems(record)]
    if alike.measured(record):
        told = ["", alike.explained(record), "", *_aligned(alike.cells(record, alike.SHORT)), *told]
    return told


NOTES = (
    "bits/dim: lower is better; nats and differences: higher is better. ± is one standard error over test rows; differences",
    "are paired row by row; spread is the standard deviation over runs with other seeds, which is in no error bar.",
)


def about(record: Mapping[str, Any]) -> str:
    """What was compared on what."""
    data = record["data"]
    shape = " × ".join(map(str, data["event_shape"]))
    test, train = (f"{data['rows'][name]:,} {said} {plural('row', data['rows'][name])}" for name, said in PARTS)
    return f"{source(record)}: {test} of {shape}, {data['space']}; {train}"


def notes(record: Mapping[str, Any]) -> list[str]:
    """What the numbers must be read with: what is odd about the data, and models trained for something else."""
    data = record["data"]
    copies, rows = int(data["test_rows_in_train"]), int(data["rows"]["test"])
    seen = [f"{copies} of the {rows} test rows are among the training rows, so they reward copying"] if copies else []
    trained = [(row["model"], word(part(row, "log_likelihood"), "trained")) for row in record["models"]]
    return [*data["notes"], *seen, *(f"{model} was {how}" for model, how in trained if how)]


def source(record: Mapping[str, Any]) -> str:
    """The data's word, or the name of their file."""
    return Path(record["data"]["source"]).name or str(record["data"]["source"])


def unit(row: Mapping[str, Any]) -> Unit:
    """What this row's amounts are given in."""
    return unit_of(part(row, "log_likelihood"), 1, False)


def quote(row: Mapping[str, Any]) -> str:
    """The number with its error bar."""
    return word(part(row, "log_likelihood"), "quote", NONE).partition("  (")[0]


def kind(row: Mapping[str, Any]) -> str:
    """What the number is."""
    return word(part(row, "log_likelihood"), "kind", NONE)


def difference(row: Mapping[str, Any]) -> str:
    """The paired difference to the best."""
    if row["difference"] is None:
        return NONE
    mean = real(row["difference"], "mean_nats")
    return "not finite" if mean is None else amount(unit(row), mean, real(row["difference"], "stderr_nats"))


def gap(row: Mapping[str, Any]) -> str:
    """Training rows minus test rows."""
    mean = real(row["gap"], "mean_nats")
    return NONE if mean is None else amount(unit(row), mean, real(row["gap"], "stderr_nats"))


def amount(of: Unit, mean: float, stderr: float | None) -> str:
    """A signed amount with its error, without its unit."""
    return plus_minus(mean * of.scale, math.nan if stderr is None else stderr * of.scale, sign=True)


def spread(row: Mapping[str, Any]) -> str:
    """The spread over seeds, and over how many."""
    sd = real(row["spread"], "sd_nats")
    return NONE if sd is None else f"{sd * unit(row).scale:.2g} ({row['spread']['runs']} runs)"


def costs(row: Mapping[str, Any]) -> list[str]:
    """Fit time, peak memory, numbers kept."""
    seconds, peak, numbers = (real(row, name) for name in ("seconds", "peak_bytes", "parameters"))
    more = "≥ " if row["resumed"] else ""
    return [
        NONE if seconds is None else more + duration(seconds),
        NONE if peak is None else more + size(peak),
        NONE if numbers is None else f"{numbers:,.0f}",
    ]


def duration(seconds: float) -> str:
    """A time.

    Example:
        >>> duration(0.034), duration(7.25), duration(312)
        ('0.03 s', '7.2 s', '5 min 12 s')
    """
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 1 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count: float) -> str:
    """An amount of memory.

    Example:
        >>> size(3 << 20), size(5 << 30)
        ('3 MB', '5.0 GB')
    """
    if count < 1 << 20:
        return "< 1 MB"
    return f"{count / (1 << 20):.0f} MB" if count < 1 << 30 else f"{count / (1 << 30):.1f} GB"


def _more(row: Mapping[str, Any]) -> str:
    told = [f"seed {run['seed']}: {run['quote'] or run['problem']}" for run in row["seeds"][1:]]
    return "".join(f"; {said}" for said in [row["problem"] or "", *told] if said)


def once(record: Mapping[str, Any]) -> list[str]:
    """A line about the models that another seed does not change, where several seeds were asked for."""
    if record["request"]["seeds"] == 1:
        return []
    words = [row["model"] for row in record["models"] if row["note"]]
    return [f"  closed form, the same for every seed and fitted once: {', '.join(words)}"] if words else []


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width each; those with no entry at all are left out."""
    used = [n for n in range(len(cells[0])) if any(row[n] != NONE for row in cells[1:])]
    widths = [max(len(row[n]) for row in cells) for n in used]
    return ["  ".join(row[n].ljust(width) for n, width in zip(used, widths, strict=True)).rstrip() for row in cells]
