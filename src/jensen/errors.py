"""The errors a user sees.

An `InputError` names what is wrong, the rule, the value it got and the way out, on one line. The command
line prints it and exits with code 2; in Python it is a `ValueError`.
"""

import difflib
from collections.abc import Iterable
from typing import Any

COPY_OR_FIT = "; put back a copy of it, or fit again with --overwrite"  # the way out of a damaged file of a run


class InputError(ValueError):
    """A user's mistake, told in one line: what, the rule, the value, the way out."""


class FitError(RuntimeError):
    """Training cannot go on; the message is the diagnosis, and what to try."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question for a word that is nearly a known one; empty where none is near.

    Example:
        >>> did_you_mean("difusion", ["diffusion", "gaussian"])
        "did you mean 'diffusion'? "
    """
    near = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def brief(value: Any, most: int = 60) -> str:
    """A value as it stands in a message, cut where it is long.

    Example:
        >>> brief([0] * 100, most=10)
        '[0, 0, 0,…'
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(words: Iterable[str], most: int = 200) -> str:
    """Words with commas between them as they stand in a message, cut where they are long.

    Example:
        >>> listed(["a", "b"])
        'a, b'
    """
    text = " ".join(", ".join(words).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plural(noun: str, count: float) -> str:
    """The noun as it stands behind a number.

    Example:
        >>> plural("row", 1), plural("row", 0)
        ('row', 'rows')
    """
    return noun if count == 1 else f"{noun}s"
