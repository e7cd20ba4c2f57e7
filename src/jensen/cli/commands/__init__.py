"""The commands. Each reads its options, calls the library, prints; what is heavy is imported inside.

In the order of this list `jensen --help` shows them.
"""

from jensen.cli.commands import fitting, scoring, drawing, diffusion, telling  # isort: skip  # noqa: F401
from jensen.cli.commands.app import app

__all__ = ["app"]
