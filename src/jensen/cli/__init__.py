"""The command line: words in, results on stdout, progress on stderr.

    options     the arguments that several commands share
    commands    one function a command, a file a kind: reads options, calls the library, prints
    inputs      what a command works on: the rows of DATA, the run's own data, the options of a diffusion chain
    work        what takes time, with its bar: draw, score, all that follows a fit
    printing    results as lines or as one JSON object

Heavy imports happen inside the commands, so that `--help` is quick. With `--json`, stdout is one JSON object and
nothing else.
"""

from jensen.cli.commands import app

__all__ = ["app"]
