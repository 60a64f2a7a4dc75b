"""The figures of a band, drawn from what its folder holds."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from galprep_dask.errors import GalprepError
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.report.findings import number
from galprep_dask.pipeline.report.folder import BandFolder

__all__ = ["Picture", "pictures_of"]

_DPI = 110


class Picture(NamedTuple):
    """A figure as WebP in base64 with its size in pixels, or the sentence that says why there is none."""

    title: str
    image: str = ""
    width: int = 0
    height: int = 0
    missing: str = ""


def pictures_of(folder: Path, band: BandFolder) -> list[Picture]:
    """
    Draw all that can be drawn of a band.

    Parameters
    ----------
    folder : Path
        Of the run.
    band : BandFolder

    Returns
    -------
    list of Picture
        In the order of the work: sky, sources and sigma, cuts of the stars, stellar locus, PSF, what it leaves.
    """
    from galprep_dask import plotting

    files = layout.preview_file, layout.stars_file, layout.psf_file, layout.psf_residuals_file
    preview, stars, psf, residuals = (file(folder, band.name) for file in files)
    plot_locus = partial(plotting.plot_stellar_locus, zeropoint=number(band.record, "zeropoint"))
    return [
        _drawn("Sky", preview, _arrays, plotting.plot_preview_sky),
        _drawn("Sources and sigma", preview, _arrays, plotting.plot_preview_sources),
        _drawn("Star cuts", stars, _stars, plotting.plot_star_cuts),
        _drawn("Stellar locus", stars, _stars, plot_locus),
        _drawn("PSF", psf, _model, plotting.plot_psf),
        _drawn("PSF: what it leaves of its stars", residuals, _arrays, plotting.plot_psf_residuals),
    ]


def _drawn(title: str, file: Path, read: Callable, draw: Callable) -> Picture:
    if not file.exists():
        return Picture(title, missing=f"There is no {file.name}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of glyphs that a font lacks, of empty slices: nothing a reader can act on
            figure = draw(read(file))
            return _picture(title, figure)
    except GalprepError as error:
        return Picture(title, missing=f"Not drawn: {error}")
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        return Picture(title, missing=f"{file.name} cannot be drawn: {error or type(error).__name__}")


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _stars(file: Path):
    from astropy.table import QTable

    stars = QTable.read(file, format="ascii.ecsv")
    for name in stars.colnames:
        if stars[name].dtype.kind in "OU" and hasattr(stars[name], "filled"):
            stars[name] = stars[name].filled("")  # an empty text comes back as one that is not known
    return stars


def _model(file: Path):
    from galprep_dask.psf.model_file import read_model

    return read_model(file)


def _picture(title: str, figure) -> Picture:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    image = Image.open(file).convert("RGB")
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=88, method=4)
    return Picture(title, base64.b64encode(packed.getvalue()).decode(), *image.size)
