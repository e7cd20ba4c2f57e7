"""The `jensen` command: runs the command line and turns errors into one line and an exit code.

Exit codes: 0 done, 1 training diverged or a bug, 2 a user's mistake, 130 interrupted.
"""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    import click

    from jensen.cli import app
    from jensen.errors import FitError, InputError

    try:
        result = app(arguments, standalone_mode=False, prog_name="jensen")
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        _complain(error.format_message())
        return 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        _complain("interrupted; what was done is kept where the command keeps anything: run the same command to go on")
        return 130
    except InputError as error:
        _complain(str(error))
        return 2
    except FitError as error:
        _complain(str(error))
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def run() -> None:
    """The console script."""
    sys.exit(main())


def _complain(message: str) -> None:
    print(f"jensen: {' '.join(message.splitlines())}", file=sys.stderr)


if __name__ == "__main__":
    run()
