"""The config of a new run: a request checked, and every "auto" and every budget turned into plain numbers and written down; and what a config
builds to train.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jensen import __version__
from jensen.config import built, skeleton
from jensen.data import require_complete
from jensen.data.examples import Split
from jensen.data.space import space_to_dict
from jensen.errors import InputError
from jensen.memory import freed_memory_kept
from jensen.models import model_class
from jensen.models.model import Model, Trained, settings_of
from jensen.models.pipeline import Encoded, Pipeline
from jensen.noise import Noise
from jensen.settings import check, seconds
from jensen.training.device import precision
from jensen.training.fitter import Fitter, TrainingSettings
from jensen.training.loop import TRIAL, Loop, steps_within

HELD_OUT_ROWS = 256
DEFAULT_BUDGET = "5m"
Say = Callable[[str], None]


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
    config = resolved(kind, split, request, lambda line: None)
    skeleton(config)


def resolved(kind: type[Model], split: Split, request: dict[str, Any], say: Say) -> dict[str, Any]:
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
    """The training of a config: settings, precision, and the number of steps, for which a budget is timed."""
    names = {field.name for field in fields(TrainingSettings)}
    own = {name: value for name, value in request["settings"].items() if name in names}
    settings = TrainingSettings(**{**asdict(kind.training_settings(split, config["model"]["options"])), **own})
    settings.check(len(split.train))
    kind.check_training(settings)
    chosen = precision(settings.precision)
    decided = {
        **asdict(settings),
        "precision": chosen.name,
        "precision_reason": chosen.reason,
        "seed": request["seed"],
    }
    decided["threads"] = torch.get_num_threads()
    if request["steps"] is not None:
        return {**decided, "steps": request["steps"]}
    budget = request["budget"] or DEFAULT_BUDGET
    trial = {**decided, "steps": TRIAL}
    fitter, rows = fitter_of(initialised({**config, "training": trial}, split), trial, split)
    say(f"timing a few steps to turn the budget of {budget} into a number of steps …")
    loop = Loop(fitter, rows, seed=request["seed"], every=TRIAL)
    count = steps_within(seconds(budget), loop.try_out, lambda: fitter.evaluate(0), fitter.evaluation_cost)
    return {**decided, "steps": count}


def initialised(config: dict[str, Any], split: Split, path: Path | None = None) -> Pipeline:
    """A pipeline with seeded weights and what has a good start in closed form."""
    skeleton(config, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["request"]["seed"])
        pipeline = built(config, path)
    pipeline.check(split.train)
    if isinstance(pipeline.model, Trained):
        pipeline.model.initialise(pipeline.encoded(split.train))
    return pipeline


def fitter_of(pipeline: Pipeline, training: dict[str, Any], split: Split) -> tuple[Fitter, Encoded]:
    """What trains the pipeline's model, and the training rows as it takes them."""
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


def _versions() -> dict[str, str]:
    return {
        "jensen": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
