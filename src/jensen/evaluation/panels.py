"""The panels of the report: each takes the story and gives a piece of the page, or a line that says what is missing."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from jensen.data.facts import describe
from jensen.data.space import Levels
from jensen.evaluation import plots
from jensen.evaluation.figures import DARK, LIGHT, Theme, figure_png
from jensen.evaluation.images import Range, finite_range, grid, png, to_pixels
from jensen.evaluation.neighbours import Nearest, affordable, nearest
from jensen.evaluation.numbers import cost, part, quoted, real, reals, word
from jensen.evaluation.page import (
    Html,
    details,
    facts,
    gallery,
    join,
    missing,
    number,
    panel,
    paragraph,
    picture,
    share,
    side_by_side,
    strong,
    table,
)
from jensen.evaluation.story import Story
from jensen.likelihood import plus_minus
from jensen.noise import Noise

NOT_EVALUATED = "No likelihood yet: there is no evaluation.json in the run folder. `jensen evaluate` writes it."
NEIGHBOURS, YARDSTICK = 12, 500
TERMS = {
    "prior": "L_T: what is left of the data in x_T",
    "diffusion": "Σ L_{t−1}: the denoising steps",
    "reconstruction": "L_0: the last step, from x_1 to the data",
    "density": "the density at dequantised values",
    "cell": "the size of a cell",
    "units": "change of units",
    "model": "the model in its own units",
}


def themed(draw: Callable[[Theme], Figure], alt: str, caption: str | Html = "", style: str = "") -> Html:
    """A figure for light and for dark screens."""
    return picture(figure_png(draw(LIGHT)), alt, dark=figure_png(draw(DARK)), caption=caption, style=style)


def header(story: Story) -> Html:
    """The one number to quote."""
    said, about = quoted(story.log_likelihood)
    title = f"{story.model} on {story.source}"
    line = said or "no likelihood yet"
    below = f"{about}; test rows" if about else ""
    return Html(
        f"<header>\n<h1>{join(title)}</h1>\n{paragraph(line, style='quote')}{paragraph(below, style='about') if below else ''}</header>\n"
    )


def meaning(story: Story) -> Html:
    """The headline in plain words."""
    ll = story.log_likelihood
    if not ll:
        return panel("What this number means", missing(NOT_EVALUATED))
    lines = [_unit_line(story), _kind_line(story, ll), _error_line(ll), _of_line(ll)]
    note = word(ll, "note")
    items = "".join(f"<li>{line}</li>\n" for line in [*lines, join(note)] if line)
    return panel("What this number means", Html(f"<ul>\n{items}</ul>\n"))


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
        f"Here {'an image' if story.image else 'a row'} is {story.dims:,} numbers (dims). A code built from this model stores a new "
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
    scale = (real(ll, "stderr_bits_per_dim") or 0) / (real(ll, "stderr_nats") or 1) if real(ll, "bits_per_dim") else 1.0
    unit = " bits/dim" if real(ll, "bits_per_dim") else " nats"
    rows, drawn, sampled = real(ll, "examples"), real(ll, "stderr_monte_carlo_nats"), real(ll, "stderr_test_set_nats")
    parts = ""
    if drawn is not None and sampled is not None:
        parts = f" Of it, {sampled * scale:.2g}{unit} come from the choice of test rows and {drawn * scale:.2g} from random draws."
    count = f" of the mean over {rows:,.0f} test rows" if rows else ""
    return join(
        strong("± is one standard error"),
        f"{count}: another test set of this size would land within it about two times in three.{parts} "
        "How much another training run would differ is not in it.",
    )


def _of_line(ll: dict[str, Any]) -> Html:
    of = word(ll, "of")
    if not of:
        return join()
    return join(strong("Of what. "), f"The number describes one way of drawing samples: {of}. Another sampler is another distribution.")


def controls(story: Story) -> Html:
    """The model beside the controls on the same rows."""
    title = "Beside simple controls, on the same rows"
    if not story.log_likelihood:
        return panel(title, missing(NOT_EVALUATED))
    found = part(story.evaluation, "controls")
    entries = [(story.model, story.log_likelihood), *((name, part(found, name)) for name in sorted(found))]
    scored = [(name, ll, c) for name, ll in entries if (c := cost(ll, story.unit)) is not None]
    if len(scored) < 2:
        return panel(title, missing(_why_no_controls(story, found)))
    names, costs = [name for name, _, _ in scored], [c for _, _, c in scored]
    unit = f"{story.unit.name}{' of −log p' if story.unit.name == 'nats' else ''} (further left is better)"

    def draw(theme: Theme) -> Figure:
        return plots.dots_figure(names, [v for v, _ in costs], [e for _, e in costs], unit=unit, theme=theme)

    chart = themed(draw, "Costs of the model and the controls with error bars", "Bars are ± one standard error.")
    rows = [(name, number(quoted(ll)[0]), word(ll, "kind")) for name, ll, _ in scored]
    left_out = [missing(f"{name}: {word(part(found, name), 'problem')}") for name in found if word(part(found, name), "problem")]
    return panel(
        title,
        _about_controls(story),
        side_by_side(chart, join(table(("model", story.unit.name, "kind"), rows), *left_out)),
        *_differences(story),
    )


def _why_no_controls(story: Story, found: dict[str, Any]) -> str:
    problems = "; ".join(f"{name}: {word(part(found, name), 'problem')}" for name in found if word(part(found, name), "problem"))
    if problems:
        return f"No control could be scored. {problems}"
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
        amounts = f"{plus_minus(mean, stderr if stderr is not None else math.nan, sign=True)} nats a {story.row}"
        bits, bits_error = real(found, "mean_bits_per_dim"), real(found, "stderr_bits_per_dim")
        if bits is not None:
            amounts += f" = {plus_minus(bits, bits_error if bits_error is not None else math.nan, sign=True)} bits/dim"
        lines.append((f"{story.model} − {name}", number(amounts), _verdict(mean, stderr, name), word(found, "meaning")))
    if not lines:
        return []
    return [
        table(("paired difference", "gain", "reading", "what it is"), lines),
        paragraph(
            "Paired means row by row: what makes a row hard for both models cancels. A difference that is a lower bound can only be "
            "larger in truth; a difference of two bounds compares the bounds.",
            style="note",
        ),
    ]


def _verdict(mean: float, stderr: float | None, name: str) -> str:
    if stderr is None or abs(mean) < 2 * stderr:
        return f"no clear difference from {name}"
    return f"better than {name}" if mean > 0 else f"worse than {name}"


def samples(story: Story) -> Html:
    """Real beside sampled."""
    title = "Real beside sampled"
    caption = f"Sampled from the model: {story.how}."
    if not story.image:
        return panel(title, _vectors(story, caption))
    limits = image_range(story)
    drawn = _sheet(story, story.samples, limits, caption, "Images drawn from the model")
    if story.split is None:
        return panel(title, side_by_side(missing(story.without_data), drawn))
    pick = Noise(0, "report").permutation(len(story.split.test))[: len(story.samples)]
    real_ones = _sheet(story, story.split.test.x[pick], limits, "Real: random test images.", "Test images")
    return panel(title, side_by_side(real_ones, drawn))


def image_range(story: Story) -> Range | None:
    """What black and white stand for: the end levels (None), or the range of real values."""
    if isinstance(story.space, Levels):
        return None
    return finite_range(story.samples if story.split is None else story.split.test.x)


def _sheet(story: Story, rows: torch.Tensor, limits: Range | None, caption: str, alt: str) -> Html:
    image = png(grid(to_pixels(rows, story.space, limits), cell=64, clear=True))
    said = f" Black is {limits[0]:.3g}, white {limits[1]:.3g}." if limits else ""
    return picture(image, alt, caption=caption + said, style="pixels")


def _vectors(story: Story, caption: str) -> Html:
    groups, note = {"sampled": story.samples}, ""
    if story.split is not None:
        pick = Noise(0, "report").permutation(len(story.split.test))[: len(story.samples)]
        groups = {"real": story.split.test.x[pick], **groups}
    else:
        note = missing(story.without_data)
    columns = part(story.config, "data", "facts").get("columns")

    def draw(theme: Theme) -> Figure:
        return plots.vectors_figure(groups, columns, theme=theme)

    return join(note, themed(draw, "Real and sampled rows", f"{caption} In the units of the data.", "wide"))


def split_of_bits(story: Story) -> Html:
    """Which terms and which steps the cost comes from."""
    title = f"Where the {'bits' if story.unit.name == 'bits/dim' else 'nats'} go"
    terms = part(story.log_likelihood, "terms")
    if not terms:
        why = NOT_EVALUATED if not story.log_likelihood else "This model's log-likelihood comes in one piece, without terms."
        return panel(title, missing(why))
    return panel(title, _terms_table(story, terms), *_per_step(story))


def _terms_table(story: Story, terms: dict[str, Any]) -> Html:
    costs = {name: cost(part(terms, name), story.unit) for name in terms}
    total = sum(abs(c[0]) for c in costs.values() if c)
    rows = [
        (TERMS.get(name, name), number(plus_minus(*c)), share(c[0] / total) if total and c[0] > 0 else "")
        for name, c in costs.items()
        if c
    ]
    return join(
        paragraph("−log p, or its bound, is a sum. Its terms, as means over the test rows:"),
        table(("term", story.unit.name, "share"), rows),
    )


def _per_step(story: Story) -> list[Html]:
    record = part(story.evaluation, "per_step")
    steps, log_snr, nats = (reals(record, name) for name in ("step", "log_snr", "nats"))
    errors = reals(record, "stderr_nats") or [0.0] * len(nats)
    if not nats or not len(steps) == len(log_snr) == len(nats) == len(errors):
        return [missing("No costs of single steps: this model has none, or evaluation.json does not hold them.")]
    inner = [n for n, step in enumerate(steps) if step > 1]
    if len(inner) < 2:
        return [missing("The chain is too short to draw the cost of its steps.")]
    x, y, e = ([values[n] for n in inner] for values in (log_snr, nats, errors))
    y, e = [v * story.unit.scale for v in y], [v * story.unit.scale for v in e]

    def draw(theme: Theme) -> Figure:
        return plots.steps_figure(x, y, e, unit=story.unit.name, theme=theme)

    caption = (
        f"The cost L_{{t−1}} of single steps, at {len(inner)} steps of the chain; the band is ± one standard error. "
        f"{_halfway([steps[n] for n in inner], x, y)}L_0 stands in the table only."
    )
    return [themed(draw, "Cost of each step over its log-SNR", caption)]


def _halfway(steps: Sequence[float], log_snr: Sequence[float], y: Sequence[float]) -> str:
    """Between which log-SNRs the middle half of Σ L_{t-1} is paid (trapezoid rule over the steps looked at)."""
    order = sorted(range(len(steps)), key=lambda n: steps[n])
    sums = [0.0]
    for a, b in zip(order[:-1], order[1:], strict=True):
        sums.append(sums[-1] + (steps[b] - steps[a]) * 0.5 * (y[a] + y[b]))
    if sums[-1] <= 0:
        return ""
    ends = [log_snr[order[next(n for n, s in enumerate(sums) if s >= share * sums[-1])]] for share in (0.25, 0.75)]
    return f"The middle half of their sum is paid between log-SNR {ends[0]:.1f} and {ends[1]:.1f}. "


def self_check(story: Story) -> Html:
    """Does the model believe its own samples as it believes test rows?"""
    title = "Does the model believe its own samples?"
    record = part(story.evaluation, "self_check")
    costs = {name: cost(part(record, name), story.unit) for name in ("test", "train", "samples")}
    test, train, own = costs["test"], costs["train"], costs["samples"]
    if test is None or own is None:
        return panel(title, missing(NOT_EVALUATED if not story.evaluation else "evaluation.json holds no self-check."))
    label = {"test": "test rows", "train": "training rows", "samples": "its own samples"}
    rows = [
        (label[name], number(plus_minus(*c)), f"{real(part(record, name), 'examples') or 0:,.0f}")
        for name, c in costs.items()
        if c
    ]
    names, found = [label[n] for n, c in costs.items() if c], [c for c in costs.values() if c]

    def draw(theme: Theme) -> Figure:
        return plots.dots_figure(
            names, [v for v, _ in found], [e for _, e in found], unit=f"−log p, {story.unit.name}", theme=theme
        )

    gap = minus(own, test)
    readings = [paragraph(strong("Samples − test: "), number(f"{_signed(gap)} {story.unit.name}"), ". ", _reading_own(gap))]
    if train is not None:
        over = minus(test, train)
        readings.append(
            paragraph(strong("Test − train: "), number(f"{_signed(over)} {story.unit.name}"), ". ", _reading_train(over))
        )
    about = f"All under one model, {word(record, 'of')}. " if word(record, "of") else ""
    bound = "These are bounds; the readings take the bounds to be about equally loose. " if _is_bound(record) else ""
    return panel(
        title,
        side_by_side(
            themed(draw, "−log p of test rows, training rows and samples", "Bars are ± one standard error; left is likelier."),
            table(("rows", f"−log p, {story.unit.name}", "how many"), rows),
        ),
        *readings,
        paragraph(about, bound, "Errors of a difference add up in squares, since the rows are different ones.", style="note"),
    )


def minus(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    """The difference of two independent means."""
    return a[0] - b[0], math.hypot(a[1], b[1])


def _signed(pair: tuple[float, float]) -> str:
    return plus_minus(*pair, sign=True)


def _is_bound(record: dict[str, Any]) -> bool:
    return "bound" in word(part(record, "test"), "kind")


def _reading_own(gap: tuple[float, float]) -> str:
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


def _reading_train(over: tuple[float, float]) -> str:
    if abs(over[0]) < 2 * over[1]:
        return "Within two standard errors: no sign that training rows are remembered."
    if over[0] > 0:
        return "Test rows cost more than training rows: the model has learned some of the training rows by heart (overfitting)."
    return "Training rows cost more than test rows: not overfitting; chance, or the two sets differ."


def film(story: Story) -> Html:
    """From noise to data."""
    title = "From noise to data"
    if not story.frames:
        return panel(title, missing(f"{story.model} draws a row in one go; there is nothing on the way to show."))
    space = story.pipeline.codec.image(story.space)
    cut = "[−1, 1]" if isinstance(space, Levels) else "[−3, 3], standardised"

    def draw(theme: Theme) -> Figure:
        if story.image:
            return plots.film_figure(story.frames, space, theme=theme)
        return plots.film_cloud_figure(story.frames, theme=theme)

    what = "The first samples of the grid above" if story.image else "All samples above, first two dimensions,"
    caption = (
        f"{what} on their way from step i = {story.frames[0].i} to 1: x_i, and below it x̂_0, what the model expects the data to be "
        f"by then. Under each column the step and its log-SNR. Units of the model, cut to {cut} for display; {story.how}."
    )
    return panel(title, themed(draw, "Film strip of the denoising", caption, "wide"))


def neighbours(story: Story) -> Html:
    """Samples beside their nearest training rows."""
    title = "Does it copy?"
    if story.split is None:
        return panel(title, missing(story.without_data))
    train, test = story.split.train, story.split.test
    if train.x.is_floating_point() and bool(train.x.isnan().flatten(1).any(1).all()):
        return panel(title, missing("Not shown: every training row has missing cells, so no distance can be computed."))
    own = nearest(story.samples, train)
    pick = Noise(0, "yardstick").permutation(len(test))[: affordable(train, min(YARDSTICK, len(test)))]
    rows = test.x[pick]
    if rows.is_floating_point():
        rows = rows[~rows.isnan().flatten(1).any(1)]
    theirs = nearest(rows, train) if len(rows) else None
    pairs = _pairs(story, own) if story.image else join()
    return panel(title, paragraph(_about_copies(story)), pairs, _distances(story, own, theirs), paragraph(_reading_copies(own, theirs)))


def _about_copies(story: Story) -> str:
    side = " Left a sample, right the training image nearest to it." if story.image else ""
    return (
        f"Distances are Euclidean, over all {story.dims:,} dimensions, in data units. The yardstick is how far test rows, which "
        f"nobody copied, are from their nearest training rows.{side}"
    )


def _pairs(story: Story, own: Nearest) -> Html:
    assert story.split is not None
    limits = image_range(story)
    items = []
    for n in own.distance.argsort()[:NEIGHBOURS].tolist():
        both = torch.stack([story.samples[n], story.split.train.x[own.index[n]]])
        image = png(grid(to_pixels(both, story.space, limits), columns=2, cell=56, clear=True))
        items.append(picture(image, "A sample and its nearest training image", caption=f"{own.distance[n]:.4g}", style="pixels"))
    note = f"The {len(items)} of {len(own.index)} samples that are nearest to a training image, with the distance."
    return join(gallery(items), paragraph(note, style="note"))


def _distances(story: Story, own: Nearest, theirs: Nearest | None) -> Html:
    groups = {"samples": own.distance.numpy()}
    if theirs is not None:
        groups["test rows"] = theirs.distance.numpy()

    def draw(theme: Theme) -> Figure:
        return plots.distances_figure(groups, unit="distance to the nearest training row, data units", theme=theme)

    rows = [
        (name, f"{len(d):,}", *(f"{v:.4g}" for v in torch.from_numpy(d).quantile(torch.tensor([0, 0.5, 1.0]).double())))
        for name, d in groups.items()
    ]
    return side_by_side(
        themed(draw, "Distances to the nearest training row"),
        table(("nearest distance of", "how many", "least", "median", "greatest"), rows),
    )


def _reading_copies(own: Nearest, theirs: Nearest | None) -> str:
    exact = int((own.distance == 0).sum())
    said = f"{exact} of {len(own.distance)} samples equal a training row exactly. " if exact else "No sample equals a training row. "
    if theirs is None:
        return said
    close = float(theirs.distance.quantile(0.05))
    below = int((own.distance < close).sum())
    expected = 0.05 * len(own.distance)
    limit = expected + 3 * math.sqrt(expected)
    verdict = "more than chance explains: look at the nearest pairs" if below > limit else "no sign of copying"
    return (
        f"{said}{below} of {len(own.distance)} are nearer to a training row than 95 % of test rows are "
        f"(about {expected:.0f} would be if samples were like test rows): {verdict}."
    )


def training(story: Story) -> Html:
    """Loss and held-out bound over the steps."""
    title = "Training"
    points = [r for r in story.history if real(r, "step") is not None]
    if not points:
        closed = "training" not in story.config
        why = "fitted in closed form, in one go; there is no curve" if closed else "history.jsonl is not in the run folder"
        return panel(title, missing(f"{story.model}: {why}."))
    steps = [real(r, "step") or 0.0 for r in points]
    losses = [(s, loss) for s, r in zip(steps, points, strict=True) if (loss := real(r, "loss")) is not None]
    shift = _unit_shift(story)
    held = [
        (s, -(v + shift) * story.unit.scale)
        for s, r in zip(steps, points, strict=True)
        if (v := real(part(r, "held_out"), "bound")) is not None
    ]
    charts = [_curve(losses, "loss", "Training loss, mean since the point before; log scale.", log=True)] if losses else []
    if held:
        best = min(held, key=lambda pair: pair[1])
        caption = (
            f"Bound on −log p of validation rows, {story.unit.name}, with averaged weights and the same noise each time; lower is better. "
            f"Best {best[1]:.4g} at step {best[0]:.0f}: those weights were kept."
        )
        charts.append(_curve(held, f"held-out bound, {story.unit.name}", caption))
    settings = part(story.config, "training")
    lines = [(name.replace("_", " "), _plain(value)) for name, value in settings.items()]
    return panel(title, side_by_side(*charts), *_held_out_parts(story, points, steps), *([facts(lines)] if lines else []))


def _unit_shift(story: Story) -> float:
    """What turns a log-density in the model's units into one in data units."""
    if isinstance(story.space, Levels):
        return 0.0
    return float(story.pipeline.codec.log_abs_det(torch.zeros(1, *story.pipeline.event_shape))[0])


def _curve(pairs: Sequence[tuple[float, float]], ylabel: str, caption: str, *, log: bool = False) -> Html:
    x, y = [a for a, _ in pairs], [b for _, b in pairs]

    def draw(theme: Theme) -> Figure:
        return plots.curve_figure(x, {ylabel: y}, xlabel="step", ylabel=ylabel, log=log, theme=theme)

    return themed(draw, f"{ylabel} over training steps", caption)


def _held_out_parts(story: Story, points: Sequence[dict[str, Any]], steps: Sequence[float]) -> list[Html]:
    names = [name for name in part(points[-1], "held_out") if name.startswith("steps ")]
    if len(names) < 2:
        return []
    lines = {
        name: [-v * story.unit.scale if (v := real(part(r, "held_out"), name)) is not None else math.nan for r in points]
        for name in names
    }

    def draw(theme: Theme) -> Figure:
        return plots.curve_figure(
            steps, lines, xlabel="step of training", ylabel=f"{story.unit.name}, this part", log=True, theme=theme
        )

    return [themed(draw, "The held-out bound in parts", "The same bound, part of the chain by part: which noise levels still improve.")]


def data(story: Story) -> Html:
    """What the data are."""
    title = "The data"
    if story.split is None:
        known = part(story.config, "data")
        lines = [(k, _plain(v)) for k, v in {**part(known, "facts"), **part(known, "rows")}.items() if v not in (None, [], {})]
        return panel(title, missing(story.without_data), paragraph("What the run noted about them:"), facts(lines))
    split = story.split
    found = describe(split)
    rows, low, high = found["rows"], *found["range"]
    classes = ", ".join(f"{name} ({count:,})" for name, count in list(found["classes"].items())[:50])
    lines = [
        ("source", str(found["source"])),
        ("rows", ", ".join(f"{count:,} {name}" for name, count in rows.items())),
        ("split", str(found["split"] or "")),
        ("shape", f"{' × '.join(map(str, found['shape']))} = {story.dims:,} dimensions, {found['dtype']}"),
        ("values", f"{found['space']}" + (f", from {low:g} to {high:g}" if low is not None else ", all missing")),
        ("classes", classes + (", …" if len(found["classes"]) > 50 else "")),
        ("constant", f"{found['constant_dimensions']:,} of {story.dims:,} dimensions"),
        ("missing", f"{found['missing_cells']:,} cells"),
        ("repeated", f"{found['duplicate_rows']:,} rows; {found['test_rows_in_train']:,} test rows are also in train"),
        ("fingerprint", split.fingerprint),
        *(("note", str(note)) for note in found["notes"]),
    ]

    def draw(theme: Theme) -> Figure:
        return plots.show_figure(split, theme=theme)

    return panel(title, themed(draw, "Rows of the training data", "", "wide"), facts([line for line in lines if line[1]]))


def model(story: Story) -> Html:
    """What the model is, and all that is needed to make it again."""
    config, network = story.config, story.pipeline.model
    request = part(config, "request")
    lines: list[tuple[str, str | Html]] = [
        ("model", f"{story.model}: {network.summary}"),
        ("from", network.paper),
        ("command", command(story)),
        ("numbers in it", f"{sum(p.numel() for p in network.parameters()):,} trained parameters"),
        *((name.replace("_", " "), _plain(value)) for name, value in part(config, "model", "options").items()),
        ("seed", _plain(request.get("seed"))),
        ("versions", ", ".join(f"{name} {version}" for name, version in part(config, "versions").items())),
    ]
    slim = {k: v for k, v in story.evaluation.items() if k != "per_step"}
    folded = [details("evaluation.json, without single steps", json.dumps(slim, indent=1, ensure_ascii=False))] if slim else []
    return panel("The model", facts([line for line in lines if line[1]]), *folded)


def command(story: Story) -> str:
    """The command line that makes such a run."""
    request = part(story.config, "request")
    words = ["jensen fit", story.source if " " not in story.source else f"'{story.source}'", "-m", story.model]
    for name in ("budget", "steps"):
        words += [f"--{name}", str(request[name])] if request.get(name) is not None else []
    words += ["--seed", str(request["seed"])] if request.get("seed") is not None else []
    for name, value in part(request, "settings").items():
        words += ["--set", f"{name}={value}"]
    return " ".join(words)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value[:20]) + (", …" if len(value) > 20 else "")
    return "" if value is None else str(value)


PANELS: tuple[Callable[[Story], Html], ...] = (
    meaning,
    controls,
    samples,
    split_of_bits,
    self_check,
    neighbours,
    film,
    training,
    data,
    model,
)
