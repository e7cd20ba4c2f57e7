"""The errors a user sees.

An `InputError` names what is wrong, the rule, the value it got and the way out, on one line. The command
line prints it and exits with code 2; in Python it is a `ValueError`.
"""


class InputError(ValueError):
    """A user's mistake, told in one line: what, the rule, the value, the way out."""


class FitError(RuntimeError):
    """Training cannot go on; the message is the diagnosis, and what to try."""
