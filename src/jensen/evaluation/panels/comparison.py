"""Costs beside each other: the model and the controls; test rows, training rows and the model's own samples."""

import math
from dataclasses import dataclass
from typing import Any, get_args

from matplotlib.figure import Figure

from jensen.data.space import Levels
from jensen.evaluation.charts import MARKS, dots_figure
from jensen.evaluation.figures import Theme
from jensen.evaluation.numbers import comparable, cost, part, quoted, real, word
from jensen.evaluation.page import (
    Html,
    block,
    join,
    missing,
    number,
    panel,
    paragraph,
    side_by_side,
    strong,
    table,
)
from jensen.evaluation.panels.common import themed
from jensen.evaluation.story import Story
from jensen.evaluation.verdict import LEAST_ROWS, verdict
from jensen.likelihood import Kind, plus_minus

LEGEND = (
    "Bars are ± one standard error. A dot is exact; a triangle is a bound and points to where the true cost may lie; "
    "a diamond is an estimate."
)
LABELS = {"test": "test rows", "train": "training rows", "samples": "its own samples"}
TOO_FEW = "Too few rows to tell."
UNKNOWN = "The standard error is unknown, so nothing can be said."
Costs = dict[str, tuple[float, float]]


def controls(story: Story) -> Html:
    """The model beside the controls on the same rows."""
    title = "Beside simple controls, on the same rows"
    if not story.log_likelihood:
        return panel(title, missing(story.without_likelihood))
    found = part(story.evaluation, "controls")
    alike = [name for name in sorted(found) if comparable(story.log_likelihood, part(found, name))]
    entries = [(story.model, story.log_likelihood), *((name, part(found, name)) for name in alike)]
    scored = [(name, ll, c) for name, ll in entries if (c := cost(ll, story.unit)) is not None]
    if len(scored) < 2:
        return panel(title, missing(_why_no_controls(story, found)))
    names, costs = [name for name, _, _ in scored], [c for _, _, c in scored]
    marks = [MARKS.get(word(ll, "kind"), "o") for _, ll, _ in scored]
    unit = f"{story.unit.name}{' of −log p' if story.unit.name == 'nats' else ''} (further left is better)"

    def draw(theme: Theme) -> Figure:
        return dots_figure(names, [v for v, _ in costs], [e for _, e in costs], marks, unit=unit, theme=theme)

    chart = themed(draw, "Costs of the model and the controls with error bars", LEGEND)
    rows = [(name, number(quoted(ll)[0]), word(ll, "kind")) for name, ll, _ in scored]
    left_out = [
        missing(f"{name}: {word(part(found, name), 'problem')}") for name in found if word(part(found, name), "problem")
    ]
    return panel(
        title,
        _about_controls(story),
        side_by_side(chart, block(table(("model", "on the test rows", "kind"), rows), *left_out)),
        *_differences(story),
    )


def _why_no_controls(story: Story, found: dict[str, Any]) -> str:
    problems = "; ".join(
        f"{name}: {word(part(found, name), 'problem')}" for name in found if word(part(found, name), "problem")
    )
    if problems:
        return f"No control could be scored. {problems}"
    if any(not comparable(story.log_likelihood, part(found, name)) for name in found):
        return f"{story.model} tells {word(story.log_likelihood, 'given')} and the controls p(x): they know no class, and do not compare."
    return f"{story.model} was scored without controls beside it."


def _about_controls(story: Story) -> Html:
    histograms = "histograms" if isinstance(story.space, Levels) else "normal distributions"
    return paragraph(
        strong("independent"),
        f" knows each dimension by itself ({histograms}); ",
        strong("gaussian"),
        " knows means and correlations. What the model gains on them is structure it has learned beyond that.",
    )


def _differences(story: Story) -> list[Html]:
    lines = []
    for name, found in part(story.evaluation, "differences").items():
        mean, stderr = real(found, "mean_nats"), real(found, "stderr_nats")
        if mean is None:
            continue
        gain = number(f"{plus_minus(mean, stderr if stderr is not None else math.nan, sign=True)} nats {story.a_row}")
        bits, bits_error = real(found, "mean_bits_per_dim"), real(found, "stderr_bits_per_dim")
        if bits is not None:
            amount = plus_minus(bits, bits_error if bits_error is not None else math.nan, sign=True)
            gain = join(gain, " = ", number(f"{amount} bits/dim"))
        meaning = word(found, "meaning", "paired")
        reading = _reading_gain(story, name, Gain(mean, math.nan if stderr is None else stderr))
        lines.append(paragraph(strong(f"{story.model} − {name}: "), gain, f" ({meaning}). {reading}"))
    if not lines:
        return []
    return [
        *lines,
        paragraph(
            "Gains are differences of log p row by row, so what makes a row hard for both models cancels. A gain that is a lower bound "
            "can only be larger in truth; a difference of two bounds compares the bounds.",
            style="note",
        ),
    ]


@dataclass(frozen=True)
class Gain:
    """A paired mean difference of log p, in nats, and its standard error, NaN if unknown."""

    mean: float
    stderr: float


def _reading_gain(story: Story, control: str, gain: Gain) -> str:
    """What the gain allows to say of the one with the lower number, as `jensen compare` says it."""
    kinds = {
        story.model: word(story.log_likelihood, "kind"),
        control: word(part(story.evaluation, "controls", control), "kind"),
    }
    if not set(kinds.values()) <= set(get_args(Kind)):
        return ""
    rows = real(story.log_likelihood, "examples") or 0
    if why := _unreadable(gain.stderr, rows):
        return why
    lower, upper = (control, story.model) if gain.mean > 0 else (story.model, control)
    words = verdict(
        _kind(kinds[lower]), _kind(kinds[upper]), Gain(-abs(gain.mean), gain.stderr), upper, int(rows)
    ).words
    return f"{lower}: {words}."


def _kind(said: str) -> Kind:
    return next(kind for kind in get_args(Kind) if kind == said)


def self_check(story: Story) -> Html:
    """Does the model believe its own samples as it believes test rows?"""
    title = "Does the model believe its own samples?"
    record = part(story.evaluation, "self_check")
    costs = {name: c for name in LABELS if (c := cost(part(record, name), story.unit)) is not None}
    if "test" not in costs or "samples" not in costs:
        return panel(
            title,
            missing(story.without_likelihood if not story.log_likelihood else "evaluation.json holds no self-check."),
        )
    about = f"All under one model, {word(record, 'of')}. " if word(record, "of") else ""
    bound = "These are bounds; the readings take the bounds to be about equally loose. " if _is_bound(record) else ""
    return panel(
        title,
        _costs(story, record, costs),
        *_readings(story, record, costs),
        paragraph(
            about, bound, "Errors of a difference add up in squares, since the rows are different ones.", style="note"
        ),
    )


def _examples(record: dict[str, Any], name: str) -> float:
    return real(part(record, name), "examples") or 0


def _costs(story: Story, record: dict[str, Any], costs: Costs) -> Html:
    """−log p of each kind of rows, drawn and in a table."""
    axis, found = f"−log p, {story.unit.name}", list(costs.values())
    marks = [MARKS.get(word(part(record, name), "kind"), "o") for name in costs]

    def draw(theme: Theme) -> Figure:
        names = [LABELS[name] for name in costs]
        return dots_figure(names, [v for v, _ in found], [e for _, e in found], marks, unit=axis, theme=theme)

    rows = [(LABELS[name], number(plus_minus(*c)), f"{_examples(record, name):,.0f}") for name, c in costs.items()]
    chart = themed(draw, "−log p of test rows, training rows and samples", f"{LEGEND} Left is likelier.")
    return side_by_side(chart, table(("rows", axis, "how many"), rows))


def _readings(story: Story, record: dict[str, Any], costs: Costs) -> list[Html]:
    """What the differences from test rows say."""
    own = minus(costs["samples"], costs["test"])
    fewest = min(_examples(record, "samples"), _examples(record, "test"))
    lines = [_reading(story, "Samples − test: ", own, _reading_own(own, fewest))]
    if "train" in costs:
        over = minus(costs["test"], costs["train"])
        fewest = min(_examples(record, "test"), _examples(record, "train"))
        lines.append(_reading(story, "Test − train: ", over, _reading_train(over, fewest)))
    return lines


def _reading(story: Story, name: str, gap: tuple[float, float], words: str) -> Html:
    return paragraph(strong(name), number(f"{_signed(gap)} {story.unit.name}"), ". ", words)


def minus(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """The difference of two independent means; its error is NaN if one of theirs is."""
    return a[0] - b[0], math.hypot(a[1], b[1])


def _signed(pair: tuple[float, float]) -> str:
    return plus_minus(*pair, sign=True)


def _is_bound(record: dict[str, Any]) -> bool:
    return "bound" in word(part(record, "test"), "kind")


def _unreadable(error: float, rows: float) -> str:
    """Why a difference with this error, of means over at least this many rows, allows no reading, or nothing."""
    if rows < LEAST_ROWS:
        return TOO_FEW
    return UNKNOWN if math.isnan(error) else ""


def _reading_own(gap: tuple[float, float], rows: float) -> str:
    if why := _unreadable(gap[1], rows):
        return why
    if abs(gap[0]) < 2 * gap[1]:
        return "Within two standard errors: the model finds its samples as likely as real rows, as a model that fits would."
    if gap[0] < 0:
        return (
            "Its own samples are likelier to it than real rows: real data hold things that the model seldom draws, so samples "
            "may look too plain or too much alike."
        )
    return (
        "Its own samples are less likely to it than real rows: the model spreads over more than the data do, so samples may look "
        "noisy or odd."
    )


def _reading_train(over: tuple[float, float], rows: float) -> str:
    if why := _unreadable(over[1], rows):
        return why
    if abs(over[0]) < 2 * over[1]:
        return "Within two standard errors: no sign that training rows are remembered."
    if over[0] > 0:
        return "Test rows cost more than training rows: the model has learned some of the training rows by heart (overfitting)."
    return "Training rows cost more than test rows: not overfitting; chance, or the two sets differ."
