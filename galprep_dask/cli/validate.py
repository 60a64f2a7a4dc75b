"""``galprep validate``: can a fit use these files?"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from galprep_dask.cli._options import Json
from galprep_dask.cli._report import print_json

__all__ = ["validate"]

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}


def validate(
    files: Annotated[
        list[str] | None, typer.Argument(help="Cutouts, PSFs, or image, mask and sigma in files of their own.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="FILE", help="File that is the image, whatever its name.")
    ] = None,
    mask: Annotated[str | None, typer.Option(metavar="FILE", help="File that is the mask.")] = None,
    sigma: Annotated[str | None, typer.Option(metavar="FILE", help="File that is the sigma image.")] = None,
    psf: Annotated[str | None, typer.Option(metavar="FILE", help="File that is the PSF.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Leave out what is as it should be.")] = False,
    as_json: Json = False,
) -> None:
    """
    Check cutouts and PSFs, ours or not, against what GalfitS and GALFIT need.

    Exit status: 0 nothing is wrong (there may be warnings), 1 a fit cannot use something, 2 a file cannot be
    read. Examples:

        galprep validate cut.fits psf.fits

        galprep validate --quiet --image image.fits --mask mask.fits
    """
    from galprep_dask.cutouts import validate_files
    from galprep_dask.cutouts.findings import LEVELS

    findings = validate_files(files or [], image=image, mask=mask, sigma=sigma, psf=psf)
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    unreadable = any(finding.check == "file" for finding in findings)
    status = 2 if unreadable else 1 if counts["error"] else 0
    if as_json:
        print_json({"status": status, "counts": counts, "findings": [finding.as_dict() for finding in findings]})
    else:
        console = Console(highlight=False)
        shown = [finding for finding in findings if not (quiet and finding.level == "ok")]
        for file in dict.fromkeys(finding.file for finding in shown):
            console.print(_as_rich(file, [finding for finding in shown if finding.file == file]))
        console.print(", ".join(f"{n} {level}{'s' * (n != 1 and level != 'ok')}" for level, n in counts.items()))
    raise typer.Exit(status)


def _as_rich(file: str, findings) -> Table:
    table = Table(title=escape(file), title_justify="left", expand=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for finding in findings:
        colour = _COLOURS[finding.level]
        table.add_row(f"[{colour}]{finding.level}[/]", *map(escape, (finding.check, finding.found, finding.advice)))
    return table
