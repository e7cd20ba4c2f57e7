"""The `jensen` command: runs the command line and turns errors into one line and an exit code.

Exit codes: 0 done, 1 training diverged or a bug, 2 a user's mistake, 130 interrupted, 141 the reader of stdout has left.
"""

import sys
from typing import Any

INTERRUPTED = 130
BROKEN_PIPE = 141  # 128 + SIGPIPE, as the shell says it of any other program


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    import typer

    from jensen.cli import app
    from jensen.errors import FitError, InputError

    usage: Any = typer.BadParameter.__mro__[2]  # ClickException: of click, or of the copy that newer typers carry
    try:
        words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
        result = app(words, standalone_mode=False, prog_name="jensen")
    except typer.Exit as end:
        return end.exit_code
    except SystemExit:  # typer's, when stdout is closed; it has silenced what is still to be flushed
        return BROKEN_PIPE
    except usage as error:
        _complain(f"{error.format_message()} (jensen --help, or jensen COMMAND --help)")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except InputError as error:
        _complain(str(error))
        return 2
    except FitError as error:
        _complain(str(error))
        return 1
    except OSError as error:
        _complain(f"{error.filename or 'a file'}: {error.strerror or error}")
        return 2
    if result == INTERRUPTED:  # typer turns Ctrl-C into this code
        _complain(
            "interrupted; finished models and checkpoints of those in training are kept and the same command goes on from "
            "them, anything else it begins anew"
        )
    return result if isinstance(result, int) else 0


def run() -> None:
    """The console script."""
    sys.exit(main())


def _complain(message: str) -> None:
    print(f"jensen: {' '.join(message.splitlines())}", file=sys.stderr)


if __name__ == "__main__":
    run()
