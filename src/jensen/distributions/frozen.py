"""Modules whose parameters are held for numbers: what is computed with them has gradients in its input and none in them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from torch import nn

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Inside, the module's parameters take no gradient."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def frozen(function: Callable[P, T]) -> Callable[P, T]:
    """The function, its parameters held for numbers if it is a module."""
    if not isinstance(function, nn.Module):
        return function

    def held(*args: P.args, **kwargs: P.kwargs) -> T:
        """As the module."""
        with constant(function):
            return function(*args, **kwargs)

    return held
