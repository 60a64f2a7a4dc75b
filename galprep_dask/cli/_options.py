"""Options that several commands have: spelled the same, with the same meaning, everywhere."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "HDU", "BoxSize", "Connectivity", "Deblend", "Exptime", "Figure", "Fwhm", "Gain", "Image", "Json", "Mask",
    "NPixels", "NSigma", "Order", "Overwrite", "Rms", "Scheduler", "SkyModel", "SkyOption", "Weight", "Workers",
    "hdu_of",
]  # fmt: skip


class SkyModel(StrEnum):
    """Skies that can be subtracted on the way."""

    none = "none"
    polynomial = "polynomial"
    mesh = "mesh"
    piecewise = "piecewise"
    median = "median"
    mean = "mean"
    auto = "auto"


Image = Annotated[str, typer.Argument(metavar="IMAGE", help="FITS file, Zarr store or URL.")]
HDU = Annotated[str | None, typer.Option(help="HDU index or EXTNAME; by default the first image.")]
Mask = Annotated[str | None, typer.Option(metavar="FILE", help="File of bad pixels, non-zero = bad.")]
Weight = Annotated[str | None, typer.Option(metavar="FILE", help="File of inverse variances of the sky.")]
Rms = Annotated[str | None, typer.Option(metavar="FILE", help="File of standard deviations of the sky.")]
Gain = Annotated[float | None, typer.Option(help="Gain in e-/ADU; by default that of the header.")]
Exptime = Annotated[
    float | None,
    typer.Option(help="Exposure in s of an image in counts per second, 1 for counts; by default that of the header."),
]

Fwhm = Annotated[float, typer.Option(min=0.1, help="FWHM of the PSF in pixels, to detect the sources with.")]
NSigma = Annotated[float, typer.Option(help="Detection threshold in standard deviations of the sky.")]
NPixels = Annotated[int, typer.Option(min=1, help="Least pixels of a source.")]
Connectivity = Annotated[int, typer.Option(help="4 or 8 neighbours that a pixel is connected to.")]
Deblend = Annotated[bool, typer.Option("--deblend", help="Split sources that overlap.")]

SkyOption = Annotated[
    SkyModel, typer.Option("--sky-model", help="Sky to subtract first; none leaves the image as it is.")
]
Order = Annotated[int, typer.Option(min=0, help="Total degree of a polynomial sky.")]
BoxSize = Annotated[int, typer.Option(min=2, help="Boxes of a mesh sky, and its pieces, in pixels.")]

Figure = Annotated[Path | None, typer.Option(metavar="FILE", help="PNG file for a picture of the result.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Workers = Annotated[
    int, typer.Option(min=0, help="Start this many worker processes; 0 computes with threads, in this one.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a dask scheduler to compute on, tcp://host:8786 for example.")
]


def hdu_of(text: str | None) -> int | str | None:
    """Take an HDU as given on the command line: a number, or a name."""
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]+", text) else text
