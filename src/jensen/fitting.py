"""`jensen.fit` and `jensen.load`: data and a word in, a fitted pipeline out.

A fit is resolved to a config first, every "auto" and every budget turned into plain numbers and written down; the
config alone then builds, trains and resumes. So the same command again goes on where it stopped, to the same bits.
"""

import contextlib
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen import __version__
from jensen.config import built, skeleton
from jensen.data import LOADED_BY, NAMED, load_data, require_complete
from jensen.data.examples import Split
from jensen.data.space import Levels, space_to_dict
from jensen.errors import COPY_OR_FIT, InputError
from jensen.memory import freed_memory_kept
from jensen.models import model_class
from jensen.models.model import (
    Calibratable,
    ClassConditional,
    ClosedForm,
    DensityModel,
    Model,
    Trained,
    Watch,
    settings_of,
)
from jensen.models.pipeline import Encoded, Pipeline
from jensen.noise import Noise
from jensen.rules import check as check_tensors
from jensen.settings import check, seconds
from jensen.training.device import precision
from jensen.training.fitter import Fitter, TrainingSettings
from jensen.training.loop import TRIAL, Loop, evaluation_interval, steps_within
from jensen.training.progress import bar
from jensen.training.run import Run

HELD_OUT_ROWS = 256
DEFAULT_BUDGET = "5m"
ALWAYS_TOLD = ("loss", "grad_norm", "lr", "skipped", "rows_per_second")  # metrics that are not what is watched
Say = Callable[[str], None]


def fit(
    data: "str | Path | Split | Tensor | np.ndarray[Any, Any]",
    model: str = "diffusion",
    *,
    run: str | Path | None = None,
    budget: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Pipeline:
    """Fit a model to data.

    Args:
        data: whatever `jensen.load_data` takes: a word, a path, an array, or a Split.
        model: the family's word; `jensen.models.MODELS` lists them.
        run: the folder to keep the run in; None keeps it in memory. The same call again resumes or loads it.
        budget: training time such as "90s", "5m", "1h30m", turned once into a number of steps; "5m" if None.
        steps: the number of training steps, instead of a budget.
        seed: of weights, order and noise.
        overwrite: replace another run that is in the folder.
        progress: show what is chosen and a progress bar on stderr.
        **settings: constructor keywords of the model and fields of `TrainingSettings`; unknown names are refused.

    Returns:
        The fitted pipeline, in data units.

    Raises:
        InputError: a user's mistake, before any work is done.
        FitError: training diverged; says where and what to try.
    """
    say: Say = (lambda line: print(line, file=sys.stderr)) if progress else (lambda line: None)
    kind = checked(model, settings, budget=budget, steps=steps, seed=seed)
    split = data if isinstance(data, Split) else load_data(data)
    if not kind.accepts_missing:
        require_complete(split.facts, split.train, split.valid, split.test)
    request = {
        "model": model,
        "data": split.fingerprint,
        "space": str(split.space),
        **{name: split.facts.get(name) for name in LOADED_BY},
        **_classes_of(kind.kind_for(settings), split),
        "settings": settings,
        "budget": budget,
        "steps": steps,
        "seed": seed,
    }
    if run is None:
        return _made(kind, split, request, None, None, progress, say)
    folder = Run(run)
    config = folder.met(request, overwrite=overwrite)
    if config is None or not folder.finished:
        with folder.locked():
            config = folder.start(request, overwrite=overwrite)  # another process may have been here in between
            if config is None or not folder.finished:
                return _made(kind, split, request, folder, config, progress, say)
    pipeline = load(folder.path)
    folder.tidy()
    say(f"finished already: {folder.path}")
    return pipeline


def _classes_of(kind: type[Model], split: Split) -> dict[str, Any]:
    """The labels a model learns from are part of what is asked for; to other models they are nothing."""
    return {"classes": split.class_fingerprint} if issubclass(kind, ClassConditional) else {}


def _made(
    kind: type[Model],
    split: Split,
    request: dict[str, Any],
    folder: Run | None,
    config: dict[str, Any] | None,
    progress: bool,
    say: Say,
) -> Pipeline:
    """A pipeline fitted anew, or from where the run stopped whose `config` is given."""
    new = config is None
    config = config or _resolve(kind, split, request, say)
    pipeline = _initialised(config, split, None if new or folder is None else folder.path)
    _describe(config, pipeline, split, say)
    if folder and new and isinstance(pipeline.model, Trained):
        folder.write_config(config)  # before step 1, and after everything a user may have got wrong was checked
    if isinstance(pipeline.model, ClosedForm):
        _learn_at_once(pipeline.model, pipeline, config, split, progress, say)
    else:
        assert isinstance(pipeline.model, Trained)
        _learn_in_steps(pipeline.model, pipeline, config, split, folder, progress, say)
    if folder:
        if new and not isinstance(pipeline.model, Trained):
            folder.write_config(config)
        folder.write_model(pipeline.model.state_dict())
        folder.drop_states()
    return pipeline


def load(path: str | Path) -> Pipeline:
    """The pipeline of a finished run; needs nothing but the folder.

    The weights' names, shapes and types are compared with the config before memory is taken. No code is run.

    Raises:
        InputError: no run there, an unfinished one, another schema, an unknown model, weights that do not fit.
    """
    run = Run(path)
    config = run.config()
    expected = skeleton(config, path)
    run.check_model(expected)
    pipeline = built(config, path)
    pipeline.model.load_state_dict(run.read_model(expected))
    check_tensors(pipeline.model, repr(str(run.file("model.safetensors"))))
    _take_calibration(run, pipeline)
    pipeline.model.eval()
    return pipeline


def _take_calibration(run: Run, pipeline: Pipeline) -> None:
    """What was measured of a finished run later, if it was."""
    with _of_calibration():
        how, model = run.calibration(), pipeline.model
        if how is None:
            return
        path = repr(str(run.file("calibration.safetensors")))
        if not isinstance(model, Calibratable) or how.get("by") not in model.calibrations:
            raise InputError(f"{path} does not fit its config.json: there is no such calibration of this model")
        model.calibrated_by(how["by"])
        model.load_state_dict({**model.state_dict(), **run.read_calibration(model.calibration())})
        check_tensors(model, path)
        pipeline.config = {**pipeline.config, "calibration": how}


@contextlib.contextmanager
def _of_calibration() -> Iterator[None]:
    """What is wrong with a calibration has one way out."""
    try:
        yield
    except InputError as error:
        what = str(error).removesuffix(COPY_OR_FIT)
        raise InputError(f"{what}; remove that file, and the run is as it was fitted") from error


def problem_of(path: str | Path) -> str | None:
    """What keeps a finished run from being loaded, found without reading its weights; None if nothing does."""
    run = Run(path)
    try:
        run.check_model(skeleton(run.config(), path))
        with _of_calibration():
            run.calibration()
    except InputError as error:
        return str(error)
    return None


def reload_data(config: dict[str, Any]) -> Split:
    """The data a run was fitted to, found again by its path and options.

    Raises:
        InputError: they were given as an array, have moved, or have changed.
    """
    facts = config["data"]["facts"]
    source = facts.get("source", "array")
    if source == "array":
        raise InputError("the run was fitted to an array in memory, which cannot be found again; give DATA")
    if not is_known(source):
        raise InputError(f"the data the run was fitted to are no longer at {source!r}; give DATA, or put them back")
    split = loaded_again(facts)
    if split.fingerprint != config["data"]["fingerprint"]:
        raise InputError(f"the data at {source!r} are no longer those the run was fitted to; give DATA to score others")
    learned = config["request"].get("classes")
    if learned is not None and learned != split.class_fingerprint:
        raise InputError(
            f"the labels at {source!r} are no longer those the run was fitted to; give DATA to score others"
        )
    return split


def loaded_again(facts: dict[str, Any]) -> Split:
    """The data that these facts are of, read again."""
    options: dict[str, Any] = {name: facts[name] for name in LOADED_BY if facts.get(name) is not None}
    if "size" in options:
        options["size"] = tuple(options["size"])
    return load_data(facts["source"], **options)


def is_known(source: str) -> bool:
    """Whether a source is a named data set or something that is there."""
    return source in NAMED or Path(source).exists()


def checked(
    word: str, settings: Mapping[str, Any], *, budget: str | None = None, steps: int | None = None, seed: int = 0
) -> type[Model]:
    """The class of a model's word, after checking all that can be checked without data.

    Raises:
        InputError: an unknown word or setting, a value of the wrong type, a budget or seed that cannot be.
    """
    kind = model_class(word)
    trained = issubclass(kind, Trained)
    check(settings, settings_of(kind, with_training=trained), f"model {word!r}")
    if budget is not None and steps is not None:
        raise InputError(f"give a budget or a number of steps, not both (got {budget!r} and {steps})")
    if not trained and (budget is not None or steps is not None):
        raise InputError(f"model {word!r} is fitted to convergence, not for a time; leave out the budget and the steps")
    if budget is not None:
        seconds(budget)
    if steps is not None and not 1 <= steps <= 10**9:
        raise InputError(f"steps must be between 1 and 10^9, got {steps}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number from 0 to 2^63 - 1, got {seed}")
    return kind


def proposed(word: str, split: Split, settings: Mapping[str, Any]) -> None:
    """Check all of a fit that can be checked without fitting: that the data suit the model, and every setting's value.

    Raises:
        InputError: what `fit` would raise.
    """
    kind = checked(word, settings)
    if not kind.accepts_missing:
        require_complete(split.facts, split.train, split.valid, split.test)
    request = {"model": word, "settings": dict(settings), "budget": None, "steps": 1, "seed": 0}
    config = _resolve(kind, split, request, lambda line: None)
    skeleton(config)


def _resolve(kind: type[Model], split: Split, request: dict[str, Any], say: Say) -> dict[str, Any]:
    """The config of a new run: everything decided, nothing learned."""
    codec = kind.codec(split)
    space = codec.image(split.space)
    own = {name: value for name, value in request["settings"].items() if name in settings_of(kind)}
    config: dict[str, Any] = {
        "request": request,
        "data": {
            "facts": split.facts,
            "fingerprint": split.fingerprint,
            "event_shape": list(split.event_shape),
            "dtype": str(split.train.x.dtype).removeprefix("torch."),
            "space": space_to_dict(split.space),
            "class_names": list(split.class_names),
            "rows": {part: len(getattr(split, part)) for part in ("train", "valid", "test")},
        },
        "codec": codec.to_dict(),
        "model": {"word": request["model"], "options": kind.resolve(split, space, own)},
        "versions": _versions(),
    }
    if issubclass(kind, Trained):
        config["training"] = _training(kind, config, split, request, say)
    return config


@freed_memory_kept()
def _training(
    kind: type[Trained], config: dict[str, Any], split: Split, request: dict[str, Any], say: Say
) -> dict[str, Any]:
    names = {field.name for field in fields(TrainingSettings)}
    own = {name: value for name, value in request["settings"].items() if name in names}
    settings = TrainingSettings(**{**asdict(kind.training_settings(split, config["model"]["options"])), **own})
    settings.check(len(split.train))
    kind.check_training(settings)
    chosen = precision(settings.precision)
    resolved = {
        **asdict(settings),
        "precision": chosen.name,
        "precision_reason": chosen.reason,
        "seed": request["seed"],
    }
    resolved["threads"] = torch.get_num_threads()
    if request["steps"] is not None:
        return {**resolved, "steps": request["steps"]}
    budget = request["budget"] or DEFAULT_BUDGET
    trial = {**resolved, "steps": TRIAL}
    fitter, rows = _fitter(_initialised({**config, "training": trial}, split), trial, split)
    say(f"timing a few steps to turn the budget of {budget} into a number of steps …")
    loop = Loop(fitter, rows, seed=request["seed"], every=TRIAL)
    count = steps_within(seconds(budget), loop.try_out, lambda: fitter.evaluate(0), fitter.evaluation_cost)
    return {**resolved, "steps": count}


def _initialised(config: dict[str, Any], split: Split, path: Path | None = None) -> Pipeline:
    """A pipeline with seeded weights and what has a good start in closed form."""
    skeleton(config, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["request"]["seed"])
        pipeline = built(config, path)
    pipeline.check(split.train)
    if isinstance(pipeline.model, Trained):
        pipeline.model.initialise(pipeline.encoded(split.train))
    return pipeline


def _fitter(pipeline: Pipeline, training: dict[str, Any], split: Split) -> tuple[Fitter, Encoded]:
    model = pipeline.model
    assert isinstance(model, Trained)
    names = {field.name for field in fields(TrainingSettings)}
    settings = TrainingSettings(**{name: training[name] for name in names})
    seed = training["seed"]
    watched = split.valid.take(Noise(seed, "watched").permutation(len(split.valid))[:HELD_OUT_ROWS])
    fitter = model.fitter(
        settings,
        precision(settings.precision),
        steps=training["steps"],
        held_out=pipeline.encoded(watched),
        seed=seed,
    )
    return fitter, pipeline.encoded(split.train)


@freed_memory_kept()
def _learn_in_steps(
    model: Trained,
    pipeline: Pipeline,
    config: dict[str, Any],
    split: Split,
    run: Run | None,
    progress: bool,
    say: Say,
) -> None:
    """Train, or go on with it, and calibrate."""
    fitter, rows = _fitter(pipeline, config["training"], split)
    steps = config["training"]["steps"]
    loop = Loop(
        fitter, rows, seed=config["training"]["seed"], every=evaluation_interval(steps, fitter.evaluation_cost), run=run
    )
    damaged = run and run.history_problem()
    if damaged:
        say(f"note: {damaged}")
    done = loop.resume()
    if done:
        say(f"going on after step {done} of {steps}")
        then, now = config["training"]["threads"], torch.get_num_threads()
        if then != now:
            say(f"note: {now} threads now, {then} before: the weights will be close, not equal to the bit")
    with bar("training", steps, done=done, shown=progress) as shown:
        loop.bar, loop.describe = shown, _behind_the_bar(pipeline)
        loop.go(done)
    fitter.keep_best()
    if fitter.skipped:
        say(f"{fitter.skipped} steps were skipped because loss or gradient was not finite")
    calls = model.calibration_calls(len(split.valid))
    with bar("calibrating", calls, shown=progress and calls > 0) as shown:
        model.calibrate(pipeline.encoded(split.valid), config["training"]["seed"], lambda calls: shown.advance(calls))


def _learn_at_once(
    model: ClosedForm, pipeline: Pipeline, config: dict[str, Any], split: Split, progress: bool, say: Say
) -> None:
    """Fit, and write into the config what the fit has settled and how it went."""
    train = pipeline.encoded(split.train, fitting=True)
    valid = pipeline.encoded(split.valid, fitting=True) if len(split.valid) else None
    with bar("fitting", None, shown=progress and model.iterative) as shown:

        def step(note: str) -> None:
            shown.advance()
            shown.note(note)

        model.fit(train, valid, seed=config["request"]["seed"], watch=Watch(say, step))
    config["model"]["options"].update(model.resolved())
    if model.report():
        config["fit"] = model.report()


def _behind_the_bar(pipeline: Pipeline) -> Callable[[dict[str, float]], str]:
    """Loss, what is watched, rows a second."""
    mass = isinstance(pipeline.space, Levels)
    dims = int(np.prod(pipeline.event_shape))
    exact = isinstance(pipeline.model, DensityModel) and pipeline.model.methods[0] == "exact"
    at_most, at_least = ("", "") if exact else ("≤ ", "≥ ")
    shift = 0.0 if mass else float(pipeline.codec.log_abs_det(torch.zeros(1, *pipeline.event_shape))[0])

    def watched(metrics: dict[str, float]) -> str:
        """Of log p in the units of the data; of anything else by its name."""
        if "held_out" not in metrics:
            return "".join(f" · {n.replace('_', ' ')} {v:.4g}" for n, v in metrics.items() if n not in ALWAYS_TOLD)
        value = metrics["held_out"] + shift
        bound = f"{at_most}{-value / dims / np.log(2):.3f} bits/dim" if mass else f"{at_least}{value:.3f} nats"
        return f" · held-out {bound}"

    return lambda metrics: f"loss {metrics['loss']:.3f}{watched(metrics)} · {metrics['rows_per_second']:.0f} rows/s"


def _describe(config: dict[str, Any], pipeline: Pipeline, split: Split, say: Say) -> None:
    rows = config["data"]["rows"]
    shape = " × ".join(map(str, split.event_shape))
    protocol = f"; {split.facts['told']}" if split.facts.get("told") else ""
    say(
        f"data    {split.facts.get('source', 'array')}: {rows['train']} train, {rows['valid']} valid, {rows['test']} test rows of {shape}, {split.space}{protocol}"
    )
    for note in split.facts.get("notes", []):
        say(f"note    {note}")
    options = ", ".join(f"{k}={v}" for k, v in config["model"]["options"].items())
    count = sum(p.numel() for p in pipeline.model.parameters())
    trained = f"; {count:,} parameters" if count else ""
    say(f"model   {config['model']['word']}: {options or 'defaults'}{trained}")
    training = config.get("training")
    if training:
        say(
            f"train   {training['steps']} steps of {training['batch_size']} rows, lr {training['lr']:g}, "
            f"{training['precision']} ({training['precision_reason']})"
        )
    warning = pipeline.model.warning()
    if warning:
        say(f"warning: {warning}")


def _versions() -> dict[str, str]:
    return {
        "jensen": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
