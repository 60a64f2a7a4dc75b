"""The stars that a PSF is made of, one beside the other, with the numbers by which they are dropped."""

from __future__ import annotations

import math
import os

import dask
import numpy as np
from astropy.table import QTable
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from galprep_dask.arrays import ImageLike, as_image, check_same_shape
from galprep_dask.errors import ParameterError
from galprep_dask.gsutils import normimg
from galprep_dask.plotting import _display

__all__ = ["plot_star_stamps"]

_DROPPED = "#b2182b"
#: Where the colour scale turns logarithmic, in standard deviations of the sky, and its share of the range.
_LINEAR, _FRAC = 3, 0.25


def plot_star_stamps(
    data: ImageLike,
    stars: QTable,
    *,
    size: int | None = None,
    start: int = 0,
    most: int = 60,
    title: str | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """
    Show the stars with their numbers and FWHM.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        The image. Not modified.
    stars : QTable
        From :func:`galprep_dask.psf.select_stars`; a column ``chi2`` is shown where there is one.
    size : int, optional
        Side of a stamp in pixels, odd; by default that of the selection.
    start : int
        Number of the first star that is shown.
    most : int
        Stars in one figure, at most.
    title : str, optional
        Above the stamps.
    path : str or path, optional
        PNG file to write; its directory must exist, and a file that exists is replaced.

    Returns
    -------
    matplotlib.figure.Figure
        Each star between minus and plus its own peak, logarithmic beyond three standard deviations of the sky; those
        dropped by hand are crossed out. What lies beyond the edge is grey.

    Raises
    ------
    ImageShapeError
        The stars were chosen on an image of another shape.
    ParameterError
        The table is no such table, or no star has such a number.
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> from galprep_dask.psf import select_stars
    >>> from galprep_dask.segmentation import detect_sources
    >>> y, x = np.mgrid[:120, :120]
    >>> image = np.random.default_rng(0).normal(size=(120, 120))
    >>> for x0, y0 in [(30, 31), (90, 30), (31, 90), (91, 89)]:
    ...     image += 200 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.7**2))
    >>> figure = plot_star_stamps(image, select_stars(image, detect_sources(image, 5.0)))
    >>> [axes.get_title().split()[0] for axes in figure.axes]
    ['0', '1', '2', '3']
    """
    image = as_image(data)
    if "number" not in getattr(stars, "colnames", ()) or "shape" not in stars.meta:
        raise ParameterError("stars is no table of select_stars: it has no numbers or no shape.")
    check_same_shape(image, tuple(stars.meta["shape"]), "data", owner="the image of the stars")
    size = size or stars.meta["size"]
    if size % 2 == 0 or size < 1:
        raise ParameterError(f"size={size!r}; expected an odd number of pixels.")
    total = int(np.max(stars["number"], initial=-1)) + 1
    if not 0 <= start < total or most < 1:
        raise ParameterError(f"start={start!r}, most={most!r}; the stars are numbered 0 to {total - 1}.")
    rows = np.flatnonzero((stars["number"] >= start) & (stars["number"] < start + most))
    rows = rows[np.argsort(stars["number"][rows])]
    places = zip(stars["x"][rows], stars["y"][rows], strict=True)
    stamps = dask.compute(*(_stamp(image, x, y, size // 2) for x, y in places))

    columns = min(10, max(4, math.ceil(math.sqrt(1.6 * len(rows)))), len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(1.5 * columns + 0.3, 1.85 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, row, stamp in zip(grid, rows, stamps, strict=False):
        _draw(axes, stars[row], stamp, stars.meta.get("sky_std"))
    for axes in grid[len(rows) :]:
        axes.remove()
    if total > len(rows):
        shown = f"stars {start} to {start + len(rows) - 1} of {total}"
        title = shown if title is None else f"{title}: {shown}"
    return _display.finish(figure, title, path)


def _stamp(image, x: float, y: float, half: int):
    ny, nx = image.shape
    x0, y0 = round(float(x)) - half, round(float(y)) - half
    rows, columns = slice(max(y0, 0), min(y0 + 2 * half + 1, ny)), slice(max(x0, 0), min(x0 + 2 * half + 1, nx))
    return image[rows, columns], (rows.start - y0, columns.start - x0), 2 * half + 1


def _draw(axes: Axes, star, stamp, sky_std) -> None:
    pixels, (dy, dx), side = stamp
    whole = np.full((side, side), np.nan)
    whole[dy : dy + pixels.shape[0], dx : dx + pixels.shape[1]] = pixels
    if sky_std is None:
        sky_std = _display.robust_levels(whole)[1]
    immin = _LINEAR * sky_std
    peak = max(float(star["max_value"]), 2 * immin)
    scaled = normimg(whole, immin=immin, immax=peak, sky=0.0, frac=_FRAC)
    axes.imshow(scaled, origin="lower", interpolation="nearest", cmap=_display.diverging(), vmin=-1, vmax=1)
    dropped = star["reason"] == "dropped by hand"
    words = f"{star['number']}   {star['fwhm'].value:.2f} px"
    if "chi2" in star.colnames:
        words += f"\n$\\chi^2$ {float(star['chi2']):.2f}"
    axes.set_title(words, fontsize="small", color=_DROPPED if dropped else "black", pad=3)
    axes.set(xticks=[], yticks=[])
    if dropped:
        axes.plot([0, side - 1], [0, side - 1], [0, side - 1], [side - 1, 0], color=_DROPPED, lw=1.5)
        axes.set(xlim=(-0.5, side - 0.5), ylim=(-0.5, side - 0.5))
