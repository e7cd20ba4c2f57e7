"""What a command works on: the rows of DATA, the run's own data, the options of a diffusion chain."""

import inspect
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jensen.data import Examples, Split, load_data, require_complete
from jensen.data.binarise import binarised
from jensen.data.labels import renamed
from jensen.data.sources import is_table
from jensen.data.space import Levels
from jensen.data.tables import holds_label
from jensen.errors import InputError
from jensen.loading import loaded_again, reload_data
from jensen.models.chain import ChainModel
from jensen.models.model import ClassConditional, keywords
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise
from jensen.settings import check, parse

MOST_STEPS = 100_000
SOLVED_IMAGES = 1000  # a number that does not depend on the data, so that two models are scored on the same rows


def load_split(
    data: str,
    size: str | None,
    levels: int | None,
    layout: str | None,
    label: str | None,
    split_seed: int,
    binarise: str | None = None,
    binarise_seed: int | None = None,
) -> Split:
    """DATA as the options say."""
    if binarise_seed is not None and binarise not in ("static", "dynamic"):
        given = binarise or "no --binarise"
        raise InputError(f"--binarise-seed is for --binarise static or dynamic, got {given}; leave it out")
    return load_data(
        data,
        size=_parsed_size(size),
        levels=levels,
        layout=layout,
        label=label,
        split_seed=split_seed,
        binarise=binarise,
        binarise_seed=binarise_seed or 0,
    )


def _parsed_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", size.lower())
    if not sides:
        raise InputError(f"--size takes HxW such as 32x32, got {size!r}")
    return int(sides[1]), int(sides[2])


def refuse_reading(size: str | None, levels: int | None, layout: str | None, label: str | None) -> None:
    """Refuse options that say how DATA is to be read where there is none: the run's own data are read as they were."""
    options = {"--size": size, "--levels": levels, "--layout": layout, "--label": label}
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} says how DATA is to be read, got {value} and no DATA; leave it out")


def rows_to_score(
    pipeline: Pipeline,
    data: str | None,
    size: str | None,
    levels: int | None,
    layout: str | None,
    label: str | None = None,
) -> Examples:
    """The run's own test rows; or DATA's test rows if it has such a part or is the run's data; or all of DATA. Their classes,
    if they have any, are the model's.
    """
    if data is None:
        refuse_reading(size, levels, layout, label)
        return reload_data(pipeline.config).test
    split = _like_the_runs(pipeline, data, size, levels, layout, label)
    rows = _unseen(pipeline, split)
    if not pipeline.model.accepts_missing:
        require_complete(split.facts, rows)
    return _with_own_classes(pipeline, pipeline.check(rows), split, asked=label is not None)


def count_or_default(rows: Examples, count: int | None, method: str | None) -> int | None:
    """How many rows to score where it was not said: all, and 1,000 images by the equation, which costs some hundred calls a row."""
    if count is None and method == "ode" and len(rows.event_shape) == 3 and len(rows) > SOLVED_IMAGES:
        return SOLVED_IMAGES
    return count


def some_of(rows: Examples, count: int | None) -> Examples:
    """So many of the rows, drawn by a seed that no option changes: two models are scored on the same ones. All if not asked.

    Raises:
        InputError: fewer than 1, more than there are.
    """
    if count is None:
        return rows
    if not 1 <= count <= len(rows):
        raise InputError(
            f"-n, a number of rows to score, must be from 1 to {len(rows):,}, got {count}; without it all are"
        )
    return rows.take(Noise(0, "evaluate", "rows").permutation(len(rows))[:count])


def _with_own_classes(pipeline: Pipeline, rows: Examples, split: Split, *, asked: bool) -> Examples:
    """Rows with the codes that the model has for their classes; without classes, and a word on stderr, if it has others."""
    if not isinstance(pipeline.model, ClassConditional):
        return rows
    try:
        return renamed(rows, split.class_names, pipeline.config["data"].get("class_names") or ())
    except InputError as error:
        if asked:
            raise
        print(f"the classes of the rows are left out: {error}", file=sys.stderr)
        return replace(rows, context=None)


def rows_to_fill(
    pipeline: Pipeline,
    data: str,
    size: str | None,
    levels: int | None,
    layout: str | None,
    label: str | None = None,
) -> tuple[Examples, list[str] | None]:
    """Every row of DATA, in its order, and the names of its columns if it has any."""
    split = _like_the_runs(pipeline, data, size, levels, layout, label)
    return pipeline.check(split.all_rows()), split.facts.get("columns")


def rows_to_code(
    pipeline: Pipeline,
    data: str | None,
    size: str | None,
    levels: int | None,
    layout: str | None,
    label: str | None = None,
) -> tuple[Examples, tuple[str, ...]]:
    """The rows of which codes are drawn, as for `rows_to_score`, and the names of their classes."""
    if data is None:
        refuse_reading(size, levels, layout, label)
        split = reload_data(pipeline.config)
        return split.test, split.class_names
    split = _like_the_runs(pipeline, data, size, levels, layout, label)
    return pipeline.check(_unseen(pipeline, split)), split.class_names


def _unseen(pipeline: Pipeline, split: Split) -> Examples:
    """Rows the model was not fitted to: the test rows of its own data and of data that have such a part, else every row."""
    own = split.fingerprint == pipeline.config["data"]["fingerprint"]
    return split.test if own or "test" in split.facts.get("given_parts", []) else split.all_rows()


def _like_the_runs(
    pipeline: Pipeline, data: str, size: str | None, levels: int | None, layout: str | None, label: str | None
) -> Split:
    """DATA, read as the run's data were where the options do not say otherwise."""
    facts = pipeline.config["data"]["facts"]
    kept = facts if facts.get("kind") == "images" and Path(data).is_dir() else {}
    fitted_size = tuple(kept["size"]) if kept.get("size") else None
    split = load_data(
        data,
        size=_parsed_size(size) or fitted_size,
        levels=levels if levels is not None else _same_levels(facts, data),
        layout=layout,
        label=label if label is not None else _same_label(pipeline, data),
        split_seed=facts.get("split_seed", 0),  # the run's own data must fall into the run's own parts
        to_fit=False,
    )
    _check_columns(facts.get("columns") or [], split.facts.get("columns") or [], data)
    for note in split.facts.get("notes", []):
        print(f"note    {note}", file=sys.stderr)
    protocol = facts.get("binarise")
    if protocol and isinstance(split.space, Levels) and split.space.k > 2:
        return binarised(split, protocol, facts.get("binarise_seed", 0))
    return split


def check_redraws(pipeline: Pipeline, count: int | None, most: int | None) -> None:
    """Refuse --redraws where nothing can be drawn again, before any work.

    Raises:
        InputError: the run's data were not drawn, are no longer to be had, or are fewer than -n takes.
    """
    if count is None:
        return
    facts = pipeline.config["data"]["facts"]
    if facts.get("binarise") not in ("static", "dynamic"):
        raise InputError(
            f"--redraws is for runs on data with --binarise static or dynamic, got {facts.get('binarise') or 'data as they are'}; leave it out"
        )
    if not 2 <= count <= 1000:
        raise InputError(f"--redraws must be from 2 to 1000, got {count}")
    own = reload_data(pipeline.config).test
    if most is not None and most > len(own):
        raise InputError(
            f"-n with --redraws takes as many of the run's own {len(own):,} test rows, got {most}; leave it out"
        )


def redraws(pipeline: Pipeline, count: int) -> Iterator[Examples]:
    """The run's own test rows, their zeros and ones drawn anew by the seeds behind the run's own."""
    facts = pipeline.config["data"]["facts"]
    for number in range(1, count + 1):
        again = {**pipeline.config["data"]["facts"], "binarise_seed": facts["binarise_seed"] + number}
        yield loaded_again(again).test


def _check_columns(fitted: list[str], found: list[str], data: str) -> None:
    """Refuse a table with a header whose columns are others than those of the run, or stand in another order."""
    if len(fitted) != len(found):  # one has no header, or the rows do not fit and are refused for that
        return
    for number, (own, other) in enumerate(zip(fitted, found, strict=True), 1):
        if own != other:
            raise InputError(
                f"column {number} of {data!r} is {other!r}, and the model was fitted to {own!r} there; give the columns in "
                f"the order of the run: {', '.join(fitted)}"
            )


def _same_levels(facts: dict[str, Any], data: str) -> int | None:
    """Whole-number arrays have the levels that were declared for the run."""
    return facts.get("levels") if Path(data).suffix in (".npy", ".npz", ".csv", ".tsv") else None


def _same_label(pipeline: Pipeline, data: str) -> str | None:
    """A table that has the run's label has it here too; one without it is rows without classes."""
    label = pipeline.config["data"]["facts"].get("label")
    if label is None or not is_table(data):
        return None
    return label if holds_label(Path(data).expanduser(), label, math.prod(pipeline.event_shape)) else None


def own_data(pipeline: Pipeline) -> tuple[Split | None, str | None]:
    """The data a run was fitted to, or why they are not to be had."""
    try:
        return reload_data(pipeline.config), None
    except InputError as error:
        return None, str(error)


def scoring_options(
    pipeline: Pipeline, method: str | None, tolerance: float | None, steps: float | None, every_step: bool
) -> dict[str, Any]:
    """The options of `Pipeline.log_likelihood` that the words of `evaluate` stand for, all checked."""
    word = pipeline.density().method_or_default(method)
    if tolerance is not None and word in ("iwae", "ais"):
        raise InputError(
            f"--tolerance chooses how many draws are made, and --method {word} makes those it is told to, got {tolerance:g}; "
            "leave it out, or see its options of --set"
        )
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"--tolerance must be positive, got {tolerance}")
    if steps != math.inf or word != "vlb":
        check_steps(pipeline, steps)
    if every_step:
        _refuse_without_chain(pipeline, "--every-step")
    if word == "ode" and (every_step or steps is not None):
        raise InputError(
            f"{'--every-step' if every_step else '--steps'} is about the chain of --method vlb, and the flow of --method ode has none; "
            "leave it out, or see --set ode_steps"
        )
    if every_step and steps == math.inf:
        raise InputError(
            "in continuous time there is no end of terms to look at every one; leave out --steps inf or --every-step"
        )
    length = {} if steps is None else {"timesteps": steps if steps == math.inf else int(steps)}
    whole = {"calls": None} if every_step else {}
    return {"method": method, "tolerance": tolerance, **length, **whole}


def method_settings(pipeline: Pipeline, pairs: list[str] | None, every_step: bool = False) -> dict[str, Any]:
    """The method's own options from `--set name=value`, checked by name and type, and against --every-step."""
    settings = parse(pairs or [])
    if "timesteps" in settings:
        raise InputError(f"the length of the chain is --steps here, got timesteps={settings['timesteps']}")
    method = pipeline.density().log_likelihood
    own = keywords(method, ("method", "ids", "seed", "on_calls", "timesteps"))
    parameters = inspect.signature(method).parameters
    check(settings, {name: parameters[name] for name in own}, "this model's likelihood")
    if every_step and "calls" in settings:
        raise InputError(
            f"--every-step looks at all terms, and calls says at how many, got calls={settings['calls']}; leave one out"
        )
    return settings


def check_steps(pipeline: Pipeline, steps: float | None) -> None:
    """Refuse --steps where there is no chain, and a chain that cannot be."""
    if steps is None:
        return
    _refuse_without_chain(pipeline, "--steps")
    assert isinstance(pipeline.model, ChainModel)
    least = min(2, pipeline.model.chain().steps)
    if not (least <= steps <= MOST_STEPS and steps == int(steps)):
        raise InputError(
            f"--steps, the length of the chain, must be a whole number between {least} and {MOST_STEPS}, got {steps:g}"
        )


def _refuse_without_chain(pipeline: Pipeline, option: str) -> None:
    if not isinstance(pipeline.model, ChainModel):
        word = pipeline.config["model"]["word"]
        raise InputError(f"{option} is for diffusion models, and this run's model is {word!r}; leave {option} out")
