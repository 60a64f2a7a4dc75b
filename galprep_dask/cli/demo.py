"""``galprep demo``: the main job on a simulated mosaic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["demo"]


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory for what is written.")
    ] = Path("galprep-demo"),
    size: Annotated[
        tuple[int, int], typer.Option("--size", metavar="NY NX", help="Rows and columns of the mosaic.")
    ] = (1500, 1800),
    seed: Annotated[int, typer.Option(help="Seed of everything random in the mosaic.")] = 1,
    figures: Annotated[bool, typer.Option(help="Whether to draw a picture of each step.")] = True,
) -> None:
    """
    Simulate a mosaic, prepare its galaxies for a fit, and compare with the truth.

    Needs no input and no network. Example: galprep demo --output /tmp/demo --seed 7
    """
    from galprep_dask.demo.run import run_demo

    console = Console(highlight=False)
    with console.status("") as status:

        def show(step: str) -> None:
            status.update(f"{step} ...")
            if not console.is_terminal:
                console.print(f"{step} ...")

        result = run_demo(output, shape=size, seed=seed, figures=figures, progress=show)
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
