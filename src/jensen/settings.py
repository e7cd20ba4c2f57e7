"""Words a user types: budgets, and `name=value` settings checked against constructor signatures."""

import inspect
import json
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from jensen.errors import InputError, brief, did_you_mean

_UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds(budget: str) -> float:
    """The seconds of a budget such as 90s, 5m or 1h30m.

    Example:
        >>> seconds("1h30m")
        5400.0
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", budget.strip())
    if not match or not any(match.groups()):
        raise InputError(f"a budget is written like 90s, 5m or 1h30m, got {budget!r}")
    total = sum(int(number or 0) * unit for number, unit in zip(match.groups(), _UNITS.values(), strict=True))
    if not 1 <= total <= 30 * 86400:
        raise InputError(f"a budget must lie between 1s and 720h, got {budget!r}")
    return float(total)


def parse(pairs: list[str]) -> dict[str, Any]:
    """`name=value` strings as a dict; values are read as JSON where they are, as words where not."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--set takes name=value, got {pair!r}")
        if name in found:
            raise InputError(f"--set gives {name} twice; give it once")
        try:
            found[name] = _counted(json.loads(text))
        except (ValueError, RecursionError):
            found[name] = text
    return found


def _counted(value: Any) -> Any:
    """1e3 steps are 1000; what a float does not count one by one stays one."""
    if isinstance(value, list):
        return [_counted(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def check(settings: Mapping[str, Any], known: Mapping[str, inspect.Parameter], what: str) -> None:
    """Refuse unknown names and values of the wrong type, naming what would do."""
    for name, value in settings.items():
        if name not in known:
            has = ", ".join(sorted(known)) or "none"
            raise InputError(f"{what} has no setting {name!r}; {did_you_mean(name, known)}it has {has}")
        wanted = known[name].annotation
        if not fits(value, wanted):
            raise InputError(f"setting {name} must be {plain(wanted)}, got {brief(value)}")


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value that JSON can hold is of an annotated type."""
    origin = get_origin(wanted)
    if origin is Literal:
        return value in get_args(wanted)
    if origin is list:
        return isinstance(value, list) and all(fits(item, get_args(wanted)[0]) for item in value)
    if origin is Union or origin is type(int | str):
        return any(fits(value, option) for option in get_args(wanted))
    if wanted is type(None):
        return value is None
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


def plain(wanted: Any) -> str:
    """An annotated type in plain words."""
    origin = get_origin(wanted)
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(wanted)))
    if origin is list:
        return f"a list of {plain(get_args(wanted)[0]).removeprefix('a ')}s"
    if origin is Union or origin is type(int | str):
        return " or ".join(plain(option) for option in get_args(wanted) if option is not type(None))
    words = {int: "a whole number", float: "a finite number", str: "a word", bool: "true or false", dict: "an object"}
    return words.get(wanted, str(wanted))
