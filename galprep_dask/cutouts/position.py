"""Where a target is: the pixels around it, the brightest of them, and the directions on the sky there."""

from __future__ import annotations

import math

import dask
import dask.array as da
import numpy as np
from astropy.wcs import WCS

from galprep_dask.errors import ParameterError
from galprep_dask.image import in_frame_of, pixels_to_sky

__all__ = ["box_around", "brightest_pixel_near", "first_pixels", "nearest_pixel", "sky_axes", "turned_axes"]


def nearest_pixel(position: float) -> int:
    """
    Round a position to a whole pixel, halves upwards.

    A position on the border of two pixels comes out of a WCS a rounding error to one side or the other; to a
    millionth of a pixel it is the same on every machine.
    """
    return int(first_pixels(position, 1))


def first_pixels(position, size) -> np.ndarray:
    """Give the first of ``size`` pixels with ``position`` within half a pixel of their middle, rounded as one is."""
    return np.floor(np.round(np.asarray(position) - (np.asarray(size) - 1) / 2, 6) + 0.5).astype(np.int64)


def box_around(x: float, y: float, sizes) -> tuple[int, int, int, int]:
    """
    Pixels within ``sizes = (left, right, below, above)`` pixels of the one that (x, y) is in.

    Returns
    -------
    x0, x1, y0, y1 : int
        For ``array[y0:y1, x0:x1]``; they may lie outside the image.
    """
    left, right, below, above = (round(float(size)) for size in sizes)
    ix, iy = nearest_pixel(x), nearest_pixel(y)
    return ix - left, ix + right + 1, iy - below, iy + above + 1


def brightest_pixel_near(data: da.Array, bad: da.Array, x: float, y: float, radius: float) -> tuple[int, int]:
    """
    Find the brightest good pixel within ``radius`` pixels of (x, y); of a cube, in its sum along the first axis.

    Parameters
    ----------
    data : (ny, nx) or (n, ny, nx) dask array
        The image.
    bad : (ny, nx) bool dask array
        Bad pixels.
    x, y : float
        0-based position.
    radius : float
        In pixels.

    Returns
    -------
    x, y : int

    Raises
    ------
    ParameterError
        ``radius`` is not positive, or no good pixel lies within.
    """
    if not radius > 0:
        raise ParameterError(f"radius={radius!r}; expected a positive number of pixels.")
    height, width = data.shape[-2:]
    rows = slice(max(math.ceil(y - radius), 0), min(math.floor(y + radius) + 1, height))
    columns = slice(max(math.ceil(x - radius), 0), min(math.floor(x + radius) + 1, width))
    pixels, masked = dask.compute(data[..., rows, columns], bad[rows, columns])
    pixels = pixels if pixels.ndim == 2 else np.nansum(pixels, axis=0)
    iy, ix = np.mgrid[rows, columns]
    usable = ~masked & ((ix - x) ** 2 + (iy - y) ** 2 <= radius**2)
    if not usable.any():
        raise ParameterError(f"no good pixel lies within {radius} px of x={x:.1f}, y={y:.1f}.")
    brightest = np.argmax(np.where(usable, pixels, -np.inf))
    return int(ix.flat[brightest]), int(iy.flat[brightest])


def sky_axes(wcs: WCS, x: float, y: float) -> np.ndarray:
    """
    Matrix that turns arcsec to the east and to the north of (x, y) into pixels along x and y.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial, two axes.
    x, y : float
        0-based position.

    Returns
    -------
    (2, 2) float64 array
        Columns are the steps of one arcsec to the east and to the north.
    """
    ra, dec = pixels_to_sky(wcs, x, y)
    step = 1 / 3600
    east = wcs.all_world2pix(*in_frame_of(wcs, ra + step / np.cos(np.radians(dec)), dec), 0)
    north = wcs.all_world2pix(*in_frame_of(wcs, ra, dec + step), 0)
    return np.transpose([np.subtract(east, (x, y)), np.subtract(north, (x, y))])


def turned_axes(scale: float, rotation: float) -> np.ndarray:
    """
    Give the matrix of :func:`sky_axes` for pixels of ``scale`` arcsec with north ``rotation`` degrees from y to x.

    Examples
    --------
    >>> turned_axes(0.5, 0.0).tolist()
    [[-2.0, 0.0], [0.0, 2.0]]
    """
    sin, cos = np.sin(np.radians(rotation)) / scale, np.cos(np.radians(rotation)) / scale
    return np.array([[-cos, sin], [sin, cos]])
