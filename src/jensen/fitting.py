"""`jensen.fit`: data and a word in, a fitted pipeline out.

A fit is resolved to a config first, every "auto" and every budget turned into plain numbers and written down; the
config alone then builds, trains and resumes. So the same command again goes on where it stopped, to the same bits.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.data import LOADED_BY, load_data, require_complete
from jensen.data.examples import Split
from jensen.data.space import Levels
from jensen.loading import load
from jensen.memory import freed_memory_kept
from jensen.models.model import ClassConditional, ClosedForm, DensityModel, Model, Trained, Watch
from jensen.models.pipeline import Pipeline
from jensen.resolving import Say, checked, fitter_of, initialised, resolved
from jensen.training.loop import Loop, evaluation_interval
from jensen.training.progress import bar
from jensen.training.run import Run

ALWAYS_TOLD = ("loss", "grad_norm", "lr", "skipped", "rows_per_second")  # metrics that are not what is watched


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
    config = config or resolved(kind, split, request, say)
    pipeline = initialised(config, split, None if new or folder is None else folder.path)
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
    fitter, rows = fitter_of(pipeline, config["training"], split)
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
