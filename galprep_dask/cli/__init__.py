"""The ``galprep`` command: one module per subcommand."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from galprep_dask.cli.demo import demo
from galprep_dask.cli.detect import detect
from galprep_dask.cli.info import info
from galprep_dask.cli.report import report
from galprep_dask.cli.run import run
from galprep_dask.cli.sky import sky
from galprep_dask.cli.validate import validate
from galprep_dask.errors import GalprepError

__all__ = ["app", "main"]

app = typer.Typer(
    name="galprep",
    help="From wide-field mosaics to the inputs of galaxy-fitting codes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _command in (demo, info, sky, detect, run, report, validate):
    app.command()(_command)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    if version:
        from galprep_dask import __version__

        typer.echo(f"galprep {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors of ours are a line on stderr and exit status 2, never a traceback."""
    try:
        app()
    except GalprepError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"galprep: {error}", markup=False)
        sys.exit(2)
