"""``galprep demo``: the main job on a simulated mosaic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from galprep_dask.cli._options import Json
from galprep_dask.cli._report import print_json

__all__ = ["demo"]


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for what is written.")
    ] = Path("galprep-demo"),
    size: Annotated[
        tuple[int, int], typer.Option("--size", metavar="NY NX", help="Rows and columns of the mosaic, in pixels.")
    ] = (1500, 1800),
    seed: Annotated[int, typer.Option(help="Seed of everything random in the mosaic.")] = 1,
    figures: Annotated[bool, typer.Option(help="Whether to draw a picture of each step.")] = True,
    as_json: Json = False,
) -> None:
    """
    Simulate a mosaic, prepare its galaxies for a fit, and compare with the truth.

    Needs no input and no network. Files of an earlier demo in the folder are replaced, others left alone. Examples:

        galprep demo --size 400 500 --no-figures -o tried
    """
    from galprep_dask.demo.run import run_demo

    shown = sys.stderr.isatty() and not as_json
    with Console(stderr=True, quiet=not shown).status("") as status:
        result = run_demo(
            output, shape=size, seed=seed, figures=figures, progress=lambda step: status.update(f"{step} ...")
        )
    if as_json:
        summary = [dict(zip(row.colnames, row, strict=True)) for row in result.summary]
        print_json({"files": [str(file) for file in result.files], "summary": summary})
        return
    console = Console(highlight=False)
    console.print(_as_rich(result.summary))
    console.print(f"{len(result.files)} files in {output}:")
    for path in result.files:
        console.print(f"  {path}", soft_wrap=True)


def _as_rich(summary) -> Table:
    table = Table(title="Truth against result", title_justify="left")
    table.add_column("quantity", overflow="fold")
    for name in summary.colnames[1:]:
        table.add_column(name, justify="right")
    for row in summary:
        values = [f"{row[name]:.5g}" for name in ("truth", "result", "error")] + [f"{row['deviation']:+.1f}"]
        table.add_row(row["quantity"], *("-" if "nan" in value else value for value in values))
    return table
