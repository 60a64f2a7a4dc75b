"""``galprep report``: one page on a run."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from galprep_dask.cli._options import Json
from galprep_dask.cli._report import report as print_report

__all__ = ["report"]


def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of galprep run.")],
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
    as_json: Json = False,
) -> None:
    """
    Write report.html into the folder of a run: one file that opens offline, and says what can be trusted.

    A run writes it when it ends; this writes it anew.

    Example: galprep report survey --open
    """
    from galprep_dask.pipeline.report import write_page

    console = Console(stderr=True)
    columns = (TextColumn("thumbnails"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as progress:
        bar = progress.add_task("thumbnails", total=None)
        written = write_page(folder, lambda done, total: progress.update(bar, completed=done, total=total))
    levels = ("error", "warning")
    found = {level: [f"{one.where}: {one.text}" for one in written.findings if one.level == level] for level in levels}
    if as_json:
        rows = {"errors": found["error"], "warnings": found["warning"]}
    else:
        rows = {f"{level}s": _first(texts) for level, texts in found.items() if texts}
    size = written.path.stat().st_size
    shown = {"page": str(written.path), "bytes": size, "targets": sum(written.targets.values()), **written.targets}
    print_report(shown | rows, title="report", as_json=as_json)
    if open_page:
        webbrowser.open(written.path.resolve().as_uri())


def _first(texts: list[str], most: int = 8) -> list[str]:
    """Give what fits a screen; the page has it all."""
    return texts if len(texts) <= most else [*texts[:most], f"and {len(texts) - most} more"]
