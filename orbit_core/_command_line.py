"""Run a command line to its end: what goes wrong is one line that begins with the program."""

import sys
from typing import Any, NoReturn

import click

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses; an interrupt ends a program as a shell counts it, 128 and SIGINT's number."""

_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What is shown as help; click has it from 8.2 on, and exits by itself before."""


def run(program: str, command: click.Command) -> NoReturn:
    """Run ``command`` as ``program`` and exit, at an interrupt without a word.

    Errors that are not click's are the caller's to tell.
    """
    try:
        status = command.main(prog_name=program, standalone_mode=False)
    except _NO_ARGUMENTS as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx else program
        fail(program, f"{_line(error)} (see {place} --help)", error.exit_code)
    except click.ClickException as error:
        fail(program, _line(error), error.exit_code)
    except click.Abort:
        sys.exit(INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)  # else it is what the command returned


def fail(program: str, reason: str, status: int) -> NoReturn:
    """Tell why the program fails, and exit with ``status``."""
    click.echo(f"{program}: {reason}", err=True)
    sys.exit(status)


def _line(error: click.ClickException) -> str:
    """Return click's words, in which a choice is a list, as one line."""
    return " ".join(error.format_message().split()).rstrip(".")
