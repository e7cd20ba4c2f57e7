"""`jensen models`: the families, and what each can be told by `--set`.

The words of a setting are those of its type, and its meaning is its line in the class's docstring: nothing is written twice.
"""

import inspect
import re
from typing import Any, Literal, get_args, get_origin

from jensen.errors import InputError, did_you_mean
from jensen.models import MODELS, model_class
from jensen.models.model import Trained, settings_of, shown_default
from jensen.training.fitter import TrainingSettings

BY_THE_DATA = ("batch_size", "lr", "weight_decay")  # of training: a family's own choice, by the data


def table() -> dict[str, dict[str, Any]]:
    """Every family with its settings' defaults."""
    return {word: {"summary": kind.summary, "paper": kind.paper, "settings": defaults(kind)} for word, kind in _kinds()}


def family(word: str) -> dict[str, Any]:
    """One family: of each setting its default, its words if it has any, and what it is about.

    Raises:
        InputError: no such family.
    """
    if word not in MODELS:
        raise InputError(f"unknown model {word!r}; {did_you_mean(word, MODELS)}known are {', '.join(MODELS)}")
    kind = model_class(word)
    known = settings_of(kind, with_training=issubclass(kind, Trained))
    about, shown = meanings(TrainingSettings) | meanings(kind), defaults(kind)
    settings = {
        name: {
            "default": shown[name],
            "words": words(parameter.annotation),
            "about": about.get(name, "").replace("None", shown[name] if parameter.default is None else "None"),
        }
        for name, parameter in known.items()
    }
    return {"summary": kind.summary, "paper": kind.paper, "settings": settings}


def defaults(kind: type) -> dict[str, str]:
    """Of each setting, as a person would type it."""
    known = settings_of(kind, with_training=issubclass(kind, Trained))
    shown = {name: shown_default(parameter) for name, parameter in known.items()}
    optional = [n for n, p in known.items() if p.default is None and "auto" in words(p.annotation)]
    shown |= dict.fromkeys(optional, "none")
    if issubclass(kind, Trained) and "training_settings" in vars(kind):
        shown |= dict.fromkeys(BY_THE_DATA, "auto")
    return shown


def words(annotation: Any) -> list[str]:
    """The words that a type allows, of a union those of its members."""
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for member in get_args(annotation) for word in words(member)]


def meanings(kind: type) -> dict[str, str]:
    """What a class's docstring says of each argument."""
    _, _, block = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")
    block = block.partition("\n\n")[0]
    entries = re.findall(r"^    ([\w, ]+): (.*(?:\n        .*)*)", block, flags=re.MULTILINE)
    return {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}


def _kinds() -> list[tuple[str, Any]]:
    return [(word, model_class(word)) for word in MODELS]
