"""The page of a comparison: the table, the picture, what the differences allow to say, the seeds, how to do it again."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jensen.evaluation.compare import alike, text
from jensen.evaluation.compare.picture import picture
from jensen.evaluation.compare.plan import ALWAYS
from jensen.evaluation.numbers import part, real, word
from jensen.evaluation.page import (
    Html,
    block,
    bullets,
    cards,
    code,
    document,
    head,
    join,
    missing,
    number,
    panel,
    paragraph,
    strong,
)
from jensen.evaluation.panels.common import themed

Record = Mapping[str, Any]

JITTERED = (
    "The generator that draws a stored training row plus a little noise makes samples nobody can tell from data, and has "
    "learned nothing: any measure that likes it is fooled. Held-out likelihood is not: its training rows are far likelier to "
    "it than test rows, and that gap, many standard errors wide, is what memorising looks like."
)


def page(record: Record, folder: Path) -> str:
    """One self-contained HTML page."""
    title = f"models on {text.source(record)}"
    parts = (
        _header(record),
        *(missing(note) for note in text.notes(record)),
        _numbers(record),
        _verdicts(record),
        _gaps(record),
        _alike(record),
        _seeds(record),
        _again(record, folder),
    )
    return document(f"{title} · jensen", join(*parts))


def _header(record: Record) -> Html:
    best = [row for row in record["models"] if row["verdict"]["code"] in ("best", "nothing to rank") and _scored(row)]
    asked = ", ".join(record["request"]["models"])
    title = f"{asked} on {text.source(record)}"
    if not best:
        return head(title, "no model has a likelihood here", text.about(record))
    return head(
        title, f"{best[0]['model']}: {text.quote(best[0])}", f"{best[0]['verdict']['words']} · {text.about(record)}"
    )


def _scored(row: Record) -> bool:
    return bool(part(row, "log_likelihood"))


def _numbers(record: Record) -> Html:
    headers = ("model", "held-out log-likelihood", "kind", "fit", "memory", "numbers kept")
    rows = [
        (row["model"], number(text.quote(row)), text.kind(row), *(number(cell) for cell in text.costs(row)))
        for row in record["models"]
    ]
    chart = themed(
        lambda theme: picture(record, theme),
        "Costs of the models with error bars",
        "Bars are ± one standard error over test rows. A dot is exact; a triangle is a bound and points to where the true cost may "
        "lie; fine strokes are runs with other seeds.",
        "wide",
    )
    problems = [missing(f"{row['model']}: {row['problem']}") for row in record["models"] if row["problem"]]
    of = [
        join(strong(row["model"]), ": ", word(part(row, "log_likelihood"), "of"))
        for row in record["models"]
        if _scored(row)
    ]
    return panel(
        "The same test rows, one number each",
        cards(headers, rows),
        *problems,
        chart,
        paragraph(
            "Bits/dim: lower is better; nats: higher is better. ± is one standard error of the mean over test rows. Time and memory are "
            "of the fit alone, numbers kept those in the weights file. What each number describes:",
            style="note",
        ),
        bullets(of),
    )


def _verdicts(record: Record) -> Html:
    rows = [
        (row["model"], _to_best(row), word(row["difference"], "meaning", text.NONE), row["verdict"]["words"])
        for row in record["models"]
    ]
    return panel(
        "What the differences allow to say",
        cards(("model", "minus the best", "what that is", "verdict"), rows),
        paragraph(
            "Differences of log p are taken row by row, so what makes a row hard for both models cancels; positive is better. "
            "Under two standard errors nothing is ranked. A lower bound below another number proves nothing: the truth may lie above it. "
            "A mass and a density are never put beside each other.",
            style="note",
        ),
    )


def _to_best(row: Record) -> Html:
    if row["difference"] is None:
        return join(text.NONE)
    unit = f" {text.unit(row).name}" if real(row["difference"], "mean_nats") is not None else ""
    return number(f"{text.difference(row)}{unit}")


def _gaps(record: Record) -> Html:
    copies = int(record["data"]["test_rows_in_train"]) > 0
    rows = [
        (
            row["model"],
            number(f"{text.gap(row)} {text.unit(row).name}"),
            number(f"{errors:+.1f}"),
            _reading(errors, copies),
        )
        for row in record["models"]
        if (errors := real(row["gap"], "standard_errors")) is not None
    ]
    shown = cards(("model", "training − test rows", "in standard errors", "reading"), rows)
    return panel(
        "What a jittered-copies generator shows",
        paragraph(JITTERED),
        shown if rows else missing("No model has a gap to show."),
        paragraph(
            "Training rows are a seeded sample, as many as test rows and at most 1,000; they are other rows, so the errors add in squares.",
            style="note",
        ),
    )


def _reading(errors: float, copies: bool) -> str:
    if errors >= 2:
        return "training rows are likelier: some of them are learned by heart"
    if errors <= -2:
        return "test rows are likelier: chance, or the two sets differ"
    return "nothing to read: test rows are among the training rows" if copies else "no sign of memorising"


def _alike(record: Record) -> Html:
    title, told = "What they draw, against test rows", [missing(line) for line in alike.problems(record)]
    if not alike.measured(record):
        return panel(title, *(told or [missing("Not measured.")]))
    parts: list[Html] = []
    for heading, names in alike.GROUPS.items():
        head, *rows = alike.cells(record, names)
        parts += [paragraph(heading), cards(head, [[row[0], *map(number, row[1:])] for row in rows])]
    return panel(title, *parts, *told, paragraph(alike.explained(record), style="note"))


def _seeds(record: Record) -> Html:
    title, several = "How much another run would differ", [row for row in record["models"] if len(row["seeds"]) > 1]
    alone = [row["model"] for row in record["models"] if row["note"]]
    same = paragraph(f"Closed form, the same for every seed and fitted once: {', '.join(alone)}.") if alone else ""
    if not several:
        return panel(title, missing("One run each: --seeds 3 shows the spread over training runs."), same)
    rows = [(row["model"], number(text.spread(row)), _runs(row)) for row in several]
    return panel(
        title,
        cards(("model", "standard deviation", "runs"), rows),
        same,
        paragraph(
            "The standard deviation over training runs of the mean over the same test rows, in the unit of the table. It is in no error "
            "bar above; the first run is the one that is quoted and compared.",
            style="note",
        ),
    )


def _runs(row: Record) -> Html:
    return block(
        *(
            paragraph(f"seed {run['seed']}: ", number(run["quote"] or run["problem"] or text.NONE))
            for run in row["seeds"]
        )
    )


def _again(record: Record, folder: Path) -> Html:
    request, data = record["request"], record["data"]
    facts = (
        f"Data fingerprint {data['fingerprint']}, jensen {record['jensen']}. The same command goes on where it was cut off and shows "
        "the result once finished; every model's run is kept in the folder runs."
    )
    if data["source"] == "array":
        said = f"jensen.compare(rows, {','.join(_asked(request))!r}, run={str(folder)!r}, seeds={request['seeds']}, seed={request['seed']})"
        return panel("To do it again", code(said), paragraph("The data were given as an array. ", facts, style="note"))
    return panel("To do it again", code(command(record, folder)), paragraph(facts, style="note"))


def _asked(request: Record) -> list[str]:
    """The models that have to be named: the controls come by themselves, where there is another one."""
    return [word for word in request["models"] if word not in ALWAYS] or list(request["models"])


def command(record: Record, folder: Path) -> str:
    """The command that makes this comparison."""
    request, data = record["request"], record["data"]
    words = ["jensen", "compare", str(data["source"]), "-m", ",".join(_asked(request)), "-o", str(folder)]
    for name in ("budget", "steps"):
        words += [f"--{name}", str(request[name])] if request[name] is not None else []
    words += ["--seeds", str(request["seeds"])] if request["seeds"] != 1 else []
    words += ["--seed", str(request["seed"])] if request["seed"] else []
    for model, settings in request["settings"].items():
        for name, value in settings.items():
            words += ["--set", f"{model}.{name}={_typed(value)}"]
    for name, value in data["options"].items():
        words += [f"--{name.replace('_', '-')}", "x".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(words)


def _typed(value: Any) -> str:
    """A value as `--set` reads it."""
    return value if isinstance(value, str) else json.dumps(value)
