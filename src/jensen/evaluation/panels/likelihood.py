"""The headline number, what it means, and the terms and steps it is a sum of."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jensen.data.space import Levels
from jensen.errors import plural
from jensen.evaluation.charts import steps_figure
from jensen.evaluation.figures import Theme
from jensen.evaluation.numbers import cost, part, quoted, real, reals, word
from jensen.evaluation.page import (
    Html,
    block,
    bullets,
    head,
    join,
    missing,
    number,
    panel,
    paragraph,
    share,
    side_by_side,
    strong,
    sub,
    table,
)
from jensen.evaluation.panels.common import themed
from jensen.evaluation.story import Story
from jensen.likelihood import plus_minus

TERMS: dict[str, Html] = {
    "prior": join(sub("L", "T"), ": what is left of the data in ", sub("x", "T")),
    "diffusion": join("Σ ", sub("L", "t−1"), ": the denoising steps"),
    "reconstruction": join(sub("L", "0"), ": the last step, from ", sub("x", "1"), " to the data"),
    "density": join("the density at dequantised values"),
    "cell": join("the size of a cell"),
    "units": join("change of units"),
    "model": join("the model in its own units"),
}


BOUND: dict[str, Html] = {  # of a variational autoencoder
    "reconstruction": join("−E log p(x | z): what a row costs once its code is known"),
    "divergence": join("KL(q(z | x) ‖ p(z)): what the code costs"),
    "units": join("change of units"),
}


def header(story: Story) -> Html:
    """The one number to quote."""
    said, about = quoted(story.log_likelihood)
    title = f"{story.model} on {Path(story.source).name or story.source}"
    none = "no likelihood" if story.evaluation.get("without_likelihood") else "no likelihood yet"
    return head(title, said or none, f"{about}; test rows" if about else "")


def meaning(story: Story) -> Html:
    """The headline in plain words."""
    ll = story.log_likelihood
    if not ll:
        return panel("What this number means", missing(story.without_likelihood))
    lines = [_unit_line(story), _kind_line(story, ll), _error_line(ll), _of_line(ll)]
    note = word(ll, "note")
    return panel("What this number means", bullets([*lines, join(note)]))


def _unit_line(story: Story) -> Html:
    space = story.space
    if story.unit.name == "nats":
        return join(
            strong("Nats, per row. "),
            "The mean natural logarithm of the model's probability density at rows it has not seen; higher is better. It depends on "
            "the units of the columns (a column in units ten times smaller costs log 10 = 2.3 nats), so compare it only on these data.",
        )
    flat = f" Knowing nothing costs log₂ {space.k} = {math.log2(space.k):.3g}." if isinstance(space, Levels) else ""
    return join(
        strong("Bits/dim. "),
        f"Here {story.a_row} is {story.dims:,} numbers (dims). A code built from this model stores a new "
        f"{story.row} in this many bits a number, on average; fewer is better.{flat}",
    )


def _kind_line(story: Story, ll: dict[str, Any]) -> Html:
    better = "fewer bits" if story.unit.name == "bits/dim" else "more nats"
    lines = {
        "exact": (
            "Exact. ",
            "The model's probability of each test row was computed without approximation.",
        ),
        "lower bound": (
            "A bound. ",
            "The model's probability is an integral that cannot be computed exactly; Jensen's inequality gives a bound on it. "
            f"The true value is at least as good: as many or {better}.",
        ),
        "upper bound": ("A bound on the other side. ", "The true value is at most as good as this."),
        "estimate": ("An estimate. ", "Random draws stand in for an integral; it may err to either side."),
    }
    head, body = lines.get(word(ll, "kind"), ("", ""))
    return join(strong(head), body) if head else join()


def _error_line(ll: dict[str, Any]) -> Html:
    if real(ll, "stderr_nats") is None:
        return join()
    scale = (real(ll, "stderr_bits_per_dim") or 0) / (real(ll, "stderr_nats") or 1) if real(ll, "bits_per_dim") else 1.0
    unit = " bits/dim" if real(ll, "bits_per_dim") else " nats"
    rows, drawn, sampled = real(ll, "examples"), real(ll, "stderr_monte_carlo_nats"), real(ll, "stderr_test_set_nats")
    parts = ""
    if drawn is not None and sampled is not None:
        parts = (
            f" {sampled * scale:.2g}{unit} of it come from the choice of test rows and {drawn * scale:.2g} from random draws (the two add "
            "up in squares)."
        )
    count = f" of the mean over {rows:,.0f} test {plural('row', rows)}" if rows else ""
    return join(
        strong("± is one standard error"),
        f"{count}: the mean over infinitely many such rows lies within it about two times in three.{parts} "
        "How much another training run would differ is not in it.",
    )


def _of_line(ll: dict[str, Any]) -> Html:
    of = word(ll, "of")
    if not of:
        return join()
    return join(
        strong("Of what. "),
        f"The number describes one way of drawing samples: {of}. Another sampler is another distribution.",
    )


def split_of_bits(story: Story) -> Html:
    """Which terms and which steps the cost comes from."""
    title = f"Where the {'bits' if story.unit.name == 'bits/dim' else 'nats'} go"
    terms = part(story.log_likelihood, "terms")
    if not terms:
        why = (
            story.without_likelihood
            if not story.log_likelihood
            else "This model's log-likelihood comes in one piece, without terms."
        )
        return panel(title, missing(why))
    return panel(title, side_by_side(_terms_table(story, terms), block(*_per_step(story))))


def _terms_table(story: Story, terms: dict[str, Any]) -> Html:
    costs = {name: cost(part(terms, name), story.unit) for name in terms}
    known = [c[0] for c in costs.values() if c]
    total = sum(known) if known and min(known) >= 0 else 0.0  # shares of a sum with negative terms say nothing
    rows = [
        (
            (BOUND if "divergence" in costs else TERMS).get(name, name),
            number(plus_minus(*c)),
            *([share(c[0] / total)] if total else []),
        )
        for name, c in costs.items()
        if c
    ]
    return block(
        paragraph("−log p, or its bound, is a sum; means over the test rows."),
        table(("term", story.unit.name, *(["share"] if total else [])), rows),
    )


def _per_step(story: Story) -> list[Html]:
    record = part(story.evaluation, "per_step")
    steps, log_snr, nats = (reals(record, name) for name in ("step", "log_snr", "nats"))
    errors = reals(record, "stderr_nats") or [math.nan] * len(nats)
    if not nats or not len(steps) == len(log_snr) == len(nats) == len(errors):
        return [missing("No costs of single steps: this model has none, or evaluation.json does not hold them.")]
    inner = [n for n, step in enumerate(steps) if step > 1]
    if len(inner) < 2:
        return [missing("The chain is too short to draw the cost of its steps.")]
    x, y, e = ([values[n] for n in inner] for values in (log_snr, nats, errors))
    y, e = [v * story.unit.scale for v in y], [v * story.unit.scale for v in e]

    def draw(theme: Theme) -> Figure:
        return steps_figure(x, y, e, unit=story.unit.name, theme=theme)

    caption = join(
        "The cost ",
        sub("L", "t−1"),
        f" of single steps, at {len(inner)} steps of the chain; ",
        "their errors are unknown. " if math.isnan(e[0]) else "the band is ± one standard error. ",
        _halfway([steps[n] for n in inner], x, y),
        sub("L", "0"),
        " stands in the table only.",
    )
    return [themed(draw, "Cost of each step over its log-SNR", caption)]


def _halfway(steps: Sequence[float], log_snr: Sequence[float], y: Sequence[float]) -> str:
    """Between which log-SNRs the middle half of Σ L_{t-1} is paid (trapezoid rule over the steps looked at)."""
    order = sorted(range(len(steps)), key=lambda n: steps[n])
    sums = [0.0]
    for a, b in itertools.pairwise(order):
        sums.append(sums[-1] + (steps[b] - steps[a]) * 0.5 * (y[a] + y[b]))
    if sums[-1] <= 0:
        return ""
    ends = [log_snr[order[next(n for n, s in enumerate(sums) if s >= share * sums[-1])]] for share in (0.25, 0.75)]
    return f"The middle half of their sum is paid between log-SNR {ends[0]:.1f} and {ends[1]:.1f}. "
