"""How the model was trained, what the data are, what the model is."""

import json
import math
import shlex
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from jensen.data import LOADED_BY
from jensen.data.facts import describe
from jensen.data.space import Levels
from jensen.errors import plural
from jensen.evaluation.charts import curve_figure
from jensen.evaluation.figures import Theme
from jensen.evaluation.numbers import part, real
from jensen.evaluation.page import (
    Html,
    details,
    facts,
    missing,
    panel,
    paragraph,
    side_by_side,
)
from jensen.evaluation.panels.common import themed
from jensen.evaluation.plots import show_figure
from jensen.evaluation.story import Story
from jensen.models.model import ClosedForm, DensityModel, Model, Trained


def training(story: Story) -> Html:
    """Loss and held-out log-likelihood, or its bound, over the steps."""
    title = "Training"
    points = [r for r in story.history if real(r, "step") is not None]
    if not points:
        return panel(title, missing(f"{story.model}: {_why_no_curve(story)}."))
    steps = [real(r, "step") or 0.0 for r in points]
    losses = [(s, loss) for s, r in zip(steps, points, strict=True) if (loss := real(r, "loss")) is not None]
    shift = _unit_shift(story)
    held = [
        (s, -(v + shift) * story.unit.scale)
        for s, r in zip(steps, points, strict=True)
        if (v := real(part(r, "held_out"), "bound")) is not None
    ]
    charts = [_curve(losses, "loss", "Training loss, mean since the point before.", log=True)] if losses else []
    if held:
        best = min(held, key=lambda pair: pair[1])
        what, how, why = _held_out_words(story.pipeline.model)
        caption = (
            f"{what[0].upper()}{what[1:]} of validation rows, {story.unit.name}, with averaged weights{how}; lower is better. "
            f"Best {best[1]:.4g} at step {best[0]:.0f}: those weights were kept. Not comparable with the number at the top of the page: "
            f"it is {why}."
        )
        name = "held-out −log p" if what == "−log p" else "held-out bound"
        charts.append(_curve(held, f"{name}, {story.unit.name}", caption))
    charts += _watched(points, steps) if not held else []
    settings = part(story.config, "training")
    lines = [(name.replace("_", " "), _plain(value)) for name, value in settings.items()]
    return panel(
        title,
        side_by_side(*charts),
        *_held_out_parts(story, points, steps),
        *([facts(lines, "compact")] if lines else []),
    )


def _watched(points: Sequence[dict[str, Any]], steps: Sequence[float]) -> list[Html]:
    """The curve of what is watched where that is no bound on log p."""
    name = next(iter(part(points[-1], "held_out")), "")
    pairs = [(s, v) for s, r in zip(steps, points, strict=True) if (v := real(part(r, "held_out"), name)) is not None]
    caption = f"{name[:1].upper()}{name[1:]} of validation rows with averaged weights: no log p and no bound on it."
    return [_curve(pairs, f"held-out {name}", caption)] if pairs else []


def _held_out_words(network: Model) -> tuple[str, str, str]:
    """What the stop rule watches, what is the same each time, and why the headline is another number."""
    exact = isinstance(network, DensityModel) and network.methods[0] == "exact"
    calibrated = isinstance(network, Trained) and network.calibration_calls(1) > 0
    scored = "scored in the precision of the training"
    return (
        "−log p" if exact else "bound on −log p",
        "" if exact else " and the same noise each time",
        f"{scored} and before variance and emission are calibrated" if calibrated else f"{scored}, on other rows",
    )


def _why_no_curve(story: Story) -> str:
    if "training" in story.config:
        return "history.jsonl is not in the run folder"
    network, report = story.pipeline.model, part(story.config, "fit")
    if not (isinstance(network, ClosedForm) and network.iterative):
        return "fitted in closed form, in one go; there is no curve"
    iterations, how = real(report, "iterations"), "converged" if report.get("converged") is True else "did NOT converge"
    return "fitted by EM" + (
        "" if iterations is None else f", which {how} after {iterations:,.0f} {plural('iteration', iterations)}"
    )


def _unit_shift(story: Story) -> float:
    """What turns a log-density in the model's units into one in data units."""
    if isinstance(story.space, Levels):
        return 0.0
    return float(story.pipeline.codec.log_abs_det(torch.zeros(1, *story.pipeline.event_shape))[0])


def _curve(pairs: Sequence[tuple[float, float]], ylabel: str, caption: str, *, log: bool = False) -> Html:
    x, y = [a for a, _ in pairs], [b for _, b in pairs]

    def draw(theme: Theme) -> Figure:
        return curve_figure(x, {ylabel: y}, xlabel="step", ylabel=ylabel, log=log, theme=theme)

    return themed(draw, f"{ylabel} over training steps", caption)


def _held_out_parts(story: Story, points: Sequence[dict[str, Any]], steps: Sequence[float]) -> list[Html]:
    names = [name for name in part(points[-1], "held_out") if name.startswith("steps ")]
    if story.unit.name == "nats":
        names = names[1:]  # the first holds the density at x_1's precision, far below the others
    if len(names) < 2:
        return []
    lines = {
        name: [
            -v * story.unit.scale if (v := real(part(r, "held_out"), name)) is not None else math.nan for r in points
        ]
        for name in names
    }

    def draw(theme: Theme) -> Figure:
        return curve_figure(
            steps, lines, xlabel="step of training", ylabel=f"{story.unit.name}, this part", log=True, theme=theme
        )

    return [
        themed(
            draw,
            "The held-out bound in parts",
            "The same bound, part of the chain by part: which noise levels still improve.",
        )
    ]


def data(story: Story) -> Html:
    """What the data are."""
    title = "The data"
    if story.split is None:
        known = part(story.config, "data")
        lines = [
            (k, _plain(v))
            for k, v in {**part(known, "facts"), **part(known, "rows")}.items()
            if v not in (None, [], {})
        ]
        return panel(title, missing(story.without_data), paragraph("What the run noted about them:"), facts(lines))
    split = story.split
    found = describe(split)
    rows, (low, high) = found["rows"], found["range"]
    classes = ", ".join(f"{name} ({count:,})" for name, count in list(found["classes"].items())[:50])
    lines = [
        ("source", str(found["source"])),
        ("rows", ", ".join(f"{count:,} {name}" for name, count in rows.items())),
        ("split", str(found["split"] or "")),
        ("shape", f"{_shape(found['shape'])}{story.dims:,} dimensions, {found['dtype']}"),
        ("values", f"{found['space']}" + (f", from {low:g} to {high:g}" if low is not None else ", all missing")),
        ("protocol", split.test.protocol),
        ("classes", classes + (", …" if len(found["classes"]) > 50 else "")),
        ("constant", f"{found['constant_dimensions']:,} of {story.dims:,} dimensions"),
        ("missing", f"{found['missing_cells']:,} cells"),
        (
            "repeated",
            f"{found['duplicate_rows']:,} {plural('row', found['duplicate_rows'])}; {found['test_rows_in_train']:,} test {plural('row', found['test_rows_in_train'])} also in train",
        ),
        ("fingerprint", split.fingerprint),
        *(("note", str(note)) for note in found["notes"]),
    ]

    def draw(theme: Theme) -> Figure:
        return show_figure(split, theme=theme)

    return panel(
        title, themed(draw, "Rows of the training data", "", "wide"), facts([line for line in lines if line[1]])
    )


def _shape(event: Sequence[int]) -> str:
    return f"{' × '.join(map(str, event))} = " if len(event) > 1 else ""


def model(story: Story) -> Html:
    """What the model is, and all that is needed to make it again."""
    config, network = story.config, story.pipeline.model
    request = part(config, "request")
    lines = [
        ("model", f"{story.model}: {network.summary}"),
        ("from", network.paper),
        ("command", command(story)),
        ("numbers in it", f"{sum(tensor.numel() for tensor in network.state_dict().values()):,} in the weights file"),
        ("seed", _plain(request.get("seed"))),
        ("versions", ", ".join(f"{name} {version}" for name, version in part(config, "versions").items())),
    ]
    options = [(name.replace("_", " "), _plain(value)) for name, value in part(config, "model", "options").items()]
    slim = {k: v for k, v in story.evaluation.items() if k != "per_step"}
    folded = (
        [details("evaluation.json, without single steps", json.dumps(slim, indent=1, ensure_ascii=False))]
        if slim
        else []
    )
    chosen = [facts(options, "compact")] if options else []
    return panel("The model", facts([line for line in lines if line[1]]), *chosen, *folded)


def command(story: Story) -> str:
    """The command line that makes this run."""
    request, known = part(story.config, "request"), part(story.config, "data", "facts")
    words = ["jensen", "fit", story.source, "-m", story.model, "-o", str(story.folder)]
    for name in ("budget", "steps"):
        words += [f"--{name}", str(request[name])] if request.get(name) is not None else []
    words += ["--seed", str(request["seed"])] if request.get("seed") is not None else []
    for name, value in part(request, "settings").items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    for name in LOADED_BY:
        words += [f"--{name.replace('_', '-')}", _option(known[name])] if known.get(name) else []
    return shlex.join(words)


def _option(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value[:20]) + (", …" if len(value) > 20 else "")
    return "" if value is None else str(value)
