"""The classes: how often the model tells them, and whether its probabilities hold."""

import math
from typing import Any

from matplotlib.figure import Figure

from jensen.errors import plural
from jensen.evaluation.calibration import accuracy, left_out, verdict
from jensen.evaluation.figures import Theme
from jensen.evaluation.numbers import part, real, word
from jensen.evaluation.page import Html, number, panel, paragraph, side_by_side, table
from jensen.evaluation.panels.common import themed
from jensen.evaluation.reliability import reliability_figure
from jensen.evaluation.story import Story
from jensen.likelihood import plus_minus

BIN = ("from", "to", "rows", "confidence", "accuracy", "accuracy_low", "accuracy_high")
MEASURES = (("log_loss_nats", "log loss, nats"), ("brier", "Brier score"))
MOST_CLASSES = 30


def classes(story: Story) -> Html:
    """Nothing where the record has no classification."""
    found = part(story.evaluation, "classification")
    if not found:
        return Html("")
    rows = real(found, "rows") or 0.0
    bins, out = _good(found.get("bins"), BIN), left_out(found)
    return panel(
        "The classes",
        paragraph(
            f"p(class | {story.row}) on {rows:,.0f} test {plural('row', rows)}: {verdict(found)}{f'; {out}' if out else ''}."
        ),
        side_by_side(*([_diagram(bins)] if bins else []), _measures(found)),
        *_by_class(found),
        paragraph(
            "“Claimed” is what the number would be if the model's own probabilities were true. Naive Bayes counts dependent "
            "columns as if each said something new, so it is often too sure; its first choice may be right all the same.",
            style="note",
        ),
    )


def _good(entries: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Those entries of a list that have all these numbers."""
    listed = entries if isinstance(entries, list) else []
    return [entry for entry in listed if all(real(entry, name) is not None for name in names)]


def _diagram(bins: list[dict[str, Any]]) -> Html:
    def draw(theme: Theme) -> Figure:
        return reliability_figure(bins, theme=theme)

    caption = "Reliability: on the dashed line probabilities hold, below it the model is too sure. Bars: 95 % intervals (Wilson)."
    return themed(draw, "Reliability diagram", caption)


def _measures(found: dict[str, Any]) -> Html:
    sure = real(found, "accuracy_claimed")
    lines = [("accuracy", number(accuracy(found)), number("" if sure is None else f"{sure:.3g}"))]
    for name, called in MEASURES:
        value, stderr, claimed = (real(found, key) for key in (name, f"{name}_stderr", f"{name}_claimed"))
        told = "infinite" if value is None else plus_minus(value, math.nan if stderr is None else stderr)
        lines.append((called, number(told), number("" if claimed is None else f"{claimed:.3g}")))
    error, claimed = real(found, "calibration_error"), real(found, "calibration_error_claimed")
    if error is not None and claimed is not None:
        lines.append(("calibration error", number(f"{error:.3f}"), number(f"{claimed:.3f}")))
    return table(("measure", "on test rows", "claimed"), lines)


def _by_class(found: dict[str, Any]) -> list[Html]:
    entries = _good(found.get("by_class"), ("rows", "right"))
    lines = [
        (word(e, "class"), number(f"{e['rows']:,.0f}"), number(f"{e['right'] / e['rows']:.3f}" if e["rows"] else "–"))
        for e in entries[:MOST_CLASSES]
    ]
    return [table(("class", "test rows", "share found"), lines)] if lines else []
