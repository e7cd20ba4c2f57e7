"""Log-likelihoods kept in a file: values and errors as tensors, what they are as text beside them. No pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from jensen.errors import InputError
from jensen.files import written_whole
from jensen.likelihood import LogLikelihood
from jensen.training.fitter import under
from jensen.training.run import read_tensors

_FACTS = ("kind", "measure", "of", "method", "given", "rows", "precision", "missing", "protocol", "trained")


def write_scores(path: Path, scores: Mapping[str, LogLikelihood]) -> None:
    """Write named log-likelihoods."""
    tensors = {f"{name}/{part}": tensor for name, ll in scores.items() for part, tensor in _tensors(ll).items()}
    facts = {name: json.dumps(_facts(ll), ensure_ascii=False) for name, ll in scores.items()}
    with written_whole(path) as aside:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, facts)


def read_scores(path: Path) -> dict[str, LogLikelihood]:
    """The inverse of `write_scores`; anything else is an `InputError`."""
    tensors, metadata = read_tensors(path, None)
    try:
        return {
            name: _rebuilt(name, json.loads(facts), tensors) for name, facts in metadata.items() if name != "format"
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is damaged: {type(error).__name__}: {str(error)[:80]}") from error


def _tensors(ll: LogLikelihood) -> dict[str, Any]:
    error = {} if ll.stderr is None else {"stderr": ll.stderr}
    told = {f"diagnostic/{name}": value for name, value in ll.diagnostics.items() if isinstance(value, Tensor)}
    return {"value": ll.value, **error, **{f"term/{name}": term for name, term in ll.terms.items()}, **told}


def _facts(ll: LogLikelihood) -> dict[str, Any]:
    return {
        **{name: getattr(ll, name) for name in _FACTS},
        "event_shape": list(ll.event_shape),
        "terms": list(ll.terms),
        "diagnostics": {name: value for name, value in ll.diagnostics.items() if not isinstance(value, Tensor)},
    }


def _rebuilt(name: str, facts: dict[str, Any], tensors: Mapping[str, Any]) -> LogLikelihood:
    return LogLikelihood(
        value=tensors[f"{name}/value"],
        stderr=tensors.get(f"{name}/stderr"),
        terms={term: tensors[f"{name}/term/{term}"] for term in facts["terms"]},
        event_shape=tuple(facts["event_shape"]),
        diagnostics=facts["diagnostics"] | under(f"{name}/diagnostic/", tensors),
        **{fact: facts[fact] for fact in _FACTS},
    )
