"""The ``galprep`` command: one module per subcommand."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import typer

from galprep_dask.cli.cutout import cutout
from galprep_dask.cli.demo import demo
from galprep_dask.cli.detect import detect
from galprep_dask.cli.info import info
from galprep_dask.cli.init import init
from galprep_dask.cli.psf import psf
from galprep_dask.cli.report import report
from galprep_dask.cli.run import run
from galprep_dask.cli.sky import sky
from galprep_dask.cli.validate import validate
from galprep_dask.errors import GalprepError

__all__ = ["app", "main"]

#: What the parser of the command line raises; typer brings a parser of its own, or takes that of click.
_UsageError = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="galprep",
    help="From wide-field mosaics to the inputs of galaxy-fitting codes.",
    epilog="Exit status: 0 all went well, 1 some of what was asked for could not be made, 2 the input is bad.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _add(command) -> None:
    """Make a command of a function; the examples of its docstring are shown line by line, at the end."""
    text, *examples = re.split(r"\s+Examples?:\s+", inspect.getdoc(command), maxsplit=1)
    lines = "\n".join(f"  {line.strip()}" for line in "".join(examples).splitlines() if line.strip())
    app.command(help=text, epilog=f"\b\nExamples:\n{lines}" if lines else None)(command)


for _command in (demo, info, sky, detect, psf, cutout, validate, init, run, report):
    _add(_command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    if version:
        from galprep_dask import __version__

        typer.echo(f"galprep {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """
    Run the command line, and exit.

    Bad input is a line on stderr and exit status 2, an interrupt exit status 130, neither of them a traceback; warnings
    are a line each.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those that the program was called with.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            status = app(arguments, prog_name="galprep", standalone_mode=False)
        except _UsageError as error:
            command = error.ctx.command_path if error.ctx else "galprep"
            said = error.format_message().replace("Value error, ", "")
            status = _say(f"{said}{'' if said.endswith(('.', '?')) else '.'} See {command} --help.")
        except GalprepError as error:
            status = _say(_in_options(str(error)))
        except OSError as error:
            status = _say(str(error))
        except KeyboardInterrupt:
            status = 130
    if status == 130:
        _say("interrupted.")
    sys.exit(status or 0)


def _say(text: str) -> int:
    """Print a line on stderr, without the line breaks that a terminal's width would make, and give exit status 2."""
    typer.echo(f"galprep: {text}", err=True)
    return 2


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _say(f"warning: {message}")


def _in_options(message: str) -> str:
    """Name options, where a message tells which argument of a function to pass."""
    return re.sub(
        r"\b([Pp]ass) ([a-z_]+)=(?:True\b|(?=[ ,.;]|$))", lambda m: f"{m[1]} --{m[2].replace('_', '-')}", message
    )
