"""From selected stars to what a PSF is fitted to: their pixels, what is masked in them, and their noise."""

from __future__ import annotations

from typing import NamedTuple

import dask
import numpy as np
from astropy.table import Table
from scipy import ndimage

from galprep_dask.arrays import ImageLike, as_image, as_labels, as_mask, check_same_shape
from galprep_dask.cutouts import extract_stamps
from galprep_dask.errors import ParameterError, TooFewStarsError
from galprep_dask.segmentation.segmentation_image import Segmentation, as_segmentation

__all__ = ["StarStamps", "star_stamps"]


class StarStamps(NamedTuple):
    """
    What :func:`galprep_dask.psf.fit_psf` takes.

    Attributes
    ----------
    stamps : (k, size, size) float array
        Pixels around each star, NaN beyond the image.
    mask : (k, size, size) bool array
        Bad pixels, and those of other sources.
    sigma : (k, size, size) float array or None
        1-sigma uncertainty, where it was given.
    x, y : (k,) float arrays
        Positions of the stars.
    rows : (k,) int array
        Their rows in the table.
    """

    stamps: np.ndarray
    mask: np.ndarray
    sigma: np.ndarray | None
    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray


def star_stamps(
    data: ImageLike,
    stars: Table,
    size: int,
    *,
    segmentation: Segmentation | ImageLike | None = None,
    mask: ImageLike | None = None,
    sigma: ImageLike | None = None,
    margin: int = 2,
) -> StarStamps:
    """
    Cut a stamp around every star that is used, and mask its neighbours.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    stars : Table
        From :func:`galprep_dask.psf.select_stars`; of other tables ``x`` and ``y`` are needed.
    size : int
        Side of the stamps in pixels, odd.
    segmentation : Segmentation or (ny, nx) integer array, optional
        Sources, 0 = sky. All but the star's own are masked, and what lies within ``margin`` pixels of them.
    mask : (ny, nx) bool array, optional
        True marks bad pixels; non-finite pixels always are.
    sigma : (ny, nx) array, optional
        1-sigma uncertainty in the unit of ``data``.
    margin : int
        By how many pixels masks of neighbours are widened.

    Returns
    -------
    StarStamps
        In memory; every chunk is read once for all stars.

    Raises
    ------
    ImageShapeError
        Shapes differ.
    ParameterError
        ``size`` is even or ``margin`` negative, or the table has no positions.
    TooFewStarsError
        No star is used.

    Examples
    --------
    >>> y, x = np.mgrid[:40, :60]
    >>> image = np.exp(-((x - 20.2) ** 2 + (y - 15.0) ** 2) / 4)
    >>> found = star_stamps(image, Table({"x": [20.2], "y": [15.0]}), 11)
    >>> found.stamps.shape, bool(found.stamps[0, 5, 5] == image[15, 20]), bool(found.mask.any())
    ((1, 11, 11), True, False)
    """
    if size < 1 or size % 2 == 0:
        raise ParameterError(f"size={size!r}; expected an odd number of pixels, so that a star has a middle pixel.")
    if margin < 0:
        raise ParameterError(f"margin={margin!r}; expected zero or a positive number of pixels.")
    if not {"x", "y"} <= set(stars.colnames):
        raise ParameterError(f"the table of stars has columns {', '.join(stars.colnames)}; expected x and y.")
    rows = np.flatnonzero(stars["used"]) if "used" in stars.colnames else np.arange(len(stars))
    if not len(rows):
        raise TooFewStarsError(f"none of the {len(stars)} sources in the table is used as a star.")
    x, y = (np.asarray(stars[name], float)[rows] for name in "xy")
    image = as_image(data)
    planes = {"stamps": image}
    if mask is not None:
        planes["mask"] = as_mask(mask, image)
    if sigma is not None:
        check_same_shape(sigma, image.shape, "sigma")
        planes["sigma"] = as_image(sigma, "sigma", chunks=image.chunks)
    if segmentation is not None:
        planes["labels"] = as_segmentation(segmentation).given
        check_same_shape(planes["labels"], image.shape, "segmentation")
    lazy = {name: extract_stamps(plane, x, y, size) for name, plane in planes.items()}
    found = dict(zip(lazy, dask.compute(*lazy.values()), strict=True))
    bad = ~np.isfinite(found["stamps"]) | found.get("mask", False)
    if "labels" in found:
        bad |= _neighbours(as_labels(found["labels"]), margin)
    return StarStamps(found["stamps"], bad, found.get("sigma"), x, y, rows)


def _neighbours(labels: np.ndarray, margin: int) -> np.ndarray:
    """Mark the pixels of sources other than the one in the middle, and those near them."""
    middle = labels.shape[1] // 2
    own = labels[:, middle, middle][:, None, None]
    others = (labels != 0) & (labels != own)
    if margin:
        near = np.zeros((1, 2 * margin + 1, 2 * margin + 1), bool)
        offset = np.arange(-margin, margin + 1)
        near[0] = np.add.outer(offset**2, offset**2) <= margin**2
        others = ndimage.binary_dilation(others, near) & ((labels != own) | (own == 0))
    return others
