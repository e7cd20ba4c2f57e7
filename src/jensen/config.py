"""What a run's config.json says, and the pipeline it describes.

A config may come from anywhere. Every field that is read is held against `FIELDS` first, and the weights the model
would have are counted before memory is taken; what does not fit is one line that names the file and the field.
"""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jensen.data.codec import Affine
from jensen.data.files import require_memory
from jensen.data.space import Levels, Real, Space, space_from_dict
from jensen.errors import InputError, brief
from jensen.models import model_class
from jensen.models.dequantised import dequantised
from jensen.models.model import DensityModel, Model, settings_of
from jensen.models.pipeline import DTYPES, Pipeline
from jensen.settings import check, fits, plain
from jensen.training.fitter import TrainingSettings

MOST_CELLS = 1 << 30  # of one row
MOST_AXES = 8
FIELDS: dict[str, Any] = {
    "data.facts": dict,
    "data.facts.source": str | None,
    "data.facts.kind": str | None,
    "data.facts.size": list[int] | None,
    "data.facts.levels": int | None,
    "data.facts.layout": str | None,
    "data.facts.split_seed": int | None,
    "data.facts.columns": list[str] | None,
    "data.facts.label": str | None,
    "data.facts.label_column": int | None,
    "data.facts.binarise": str | None,
    "data.facts.binarise_seed": int | None,
    "data.facts.told": str | None,
    "data.class_names": list[str] | None,
    "data.fingerprint": str,
    "data.event_shape": list[int],
    "data.dtype": str,
    "data.space": dict,
    "codec.type": str,
    "model.word": str,
    "model.options": dict,
}
TRAINING: dict[str, Any] = {"training.steps": int, "training.seed": int, "training.threads": int} | {
    f"training.{name}": parameter.annotation
    for name, parameter in inspect.signature(TrainingSettings).parameters.items()
}


def skeleton(config: dict[str, Any], path: str | Path | None = None) -> dict[str, Tensor]:
    """Names, shapes and types of the weights a config describes, on the meta device; refused if they do not fit in
    memory together with what is computed beside them and kept in no file, such as the masks of a masked network.
    """
    with torch.device("meta"):
        model = built(config, path).model
    needed = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    require_memory(needed, "the model" if path is None else f"the model that {_file(path)} describes")
    return model.state_dict()


def built(config: dict[str, Any], path: str | Path | None = None) -> Pipeline:
    """The pipeline a config describes, with fresh weights.

    Args:
        config: the content of config.json.
        path: the run's folder it was read from; None for a config that was made here and is to be trusted.
    """
    if path is None:
        return _built(config)
    try:
        _check_fields(config)
        return _built(config)
    except InputError as error:
        raise InputError(f"{_file(path)} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(
            f"{_file(path)} is damaged: no {brief(config['model']['word'])} model can be made of what it says; "
            "put back a copy of it, or begin in another folder"
        ) from error


def _file(path: str | Path) -> str:
    return repr(str(Path(path) / "config.json"))


def _check_fields(config: dict[str, Any]) -> None:
    """Refuse a field of the wrong type, a row of absurd size, a dtype that is none of ours."""
    for name, wanted in {**FIELDS, **(TRAINING if "training" in config else {})}.items():
        value = _value(config, name)
        if not fits(value, wanted):
            raise InputError(f"{name} must be {plain(wanted)}, got {brief(value)}")
    event, dtype = config["data"]["event_shape"], config["data"]["dtype"]
    if not 1 <= len(event) <= MOST_AXES or min(event) < 1 or math.prod(event) > MOST_CELLS:
        rule = f"1 to {MOST_AXES} whole numbers from 1 whose product is at most {MOST_CELLS:,}"
        raise InputError(f"data.event_shape must be {rule}, got {brief(event)}")
    if dtype not in DTYPES:
        raise InputError(f"data.dtype must be one of {', '.join(DTYPES)}, got {brief(dtype)}")


def _value(config: Any, name: str) -> Any:
    """The value at a dotted name; None where there is none."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _built(config: dict[str, Any]) -> Pipeline:
    data, word, options = config["data"], config["model"]["word"], config["model"]["options"]
    event, space = tuple(data["event_shape"]), space_from_dict(data["space"])
    kind = model_class(word)
    check(options, settings_of(kind), f"model {word!r}")
    kind = kind.kind_for(options)
    with torch.device("cpu"):
        codec = Affine.from_dict(config["codec"])
    _check_codec(codec, space, event)
    return Pipeline(codec, _wrapped(kind, event, codec.image(space), options), space, DTYPES[data["dtype"]], config)


def _check_codec(codec: Affine, space: Space, event: tuple[int, ...]) -> None:
    """Shift and scale must broadcast to a row, and be one number each on levels."""
    for name, tensor in (("shift", codec.shift), ("scale", codec.scale)):
        shape = tuple(tensor.shape)
        behind = event[len(event) - len(shape) :]
        odd = len(shape) > len(event) or (shape and isinstance(space, Levels))
        if odd or any(own not in (1, n) for own, n in zip(shape, behind, strict=True)):
            raise InputError(f"codec.{name} has shape {shape}, which does not fit rows of shape {event} and {space}")


def _wrapped(kind: type[Model], event: tuple[int, ...], space: Space, options: dict[str, Any]) -> Model:
    """The model, dequantised where it scores real values and the data are levels."""
    build: Callable[..., Model] = kind
    if isinstance(space, Real) and Real not in kind.spaces:
        raise InputError(
            f"{kind.__name__} scores levels (whole numbers from 0), and these data are real values; give uint8 or uint16 "
            "data with their number of levels (--levels), or fit a model of real values such as gmm"
        )
    if isinstance(space, Levels) and Levels not in kind.spaces:
        inner = build(event, Real(), **options)
        assert isinstance(inner, DensityModel)
        return dequantised(inner, space)
    return build(event, space, **options)
