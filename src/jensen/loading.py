"""`jensen.load`: the pipeline of a finished run, and the data it was fitted to, found again."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jensen.config import built, skeleton
from jensen.data import LOADED_BY, NAMED, load_data
from jensen.data.examples import Split
from jensen.errors import COPY_OR_FIT, InputError
from jensen.models.model import Calibratable
from jensen.models.pipeline import Pipeline
from jensen.rules import check as check_tensors
from jensen.training.run import Run


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
