"""The part of the sky that an image covers: as caps, as boxes in RA and Dec, as cells of a fixed grid, in pixels.

All of it is right where RA runs from 360 to 0 and at the poles, because distances are taken between unit vectors
and the boxes of RA and Dec come from the exact extent of a cap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from galprep_dask.arrays import is_finite
from galprep_dask.errors import MissingWCSError, ParameterError
from galprep_dask.image import celestial_wcs, in_frame_of, pixels_to_sky

__all__ = ["Box", "Footprint", "cells_of", "cut_to", "make_footprint", "unit_vectors"]

# A piece of the image is looked at in this many points along each side.
_POINTS = 5
_MOST_PIECES = 24


@dataclass(frozen=True)
class Box:
    """Right ascensions and declinations in degrees, ``0 <= ra_min < ra_max <= 360``."""

    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float

    def cap(self) -> tuple[float, float, float]:
        """Give centre and radius, in degrees, of a cap that holds the box (up to half of the sky in RA)."""
        ra, dec = (self.ra_min + self.ra_max) / 2, (self.dec_min + self.dec_max) / 2
        centre = unit_vectors(ra, dec)
        # On a box the farthest point from its centre is a corner.
        corners = unit_vectors(*np.meshgrid([self.ra_min, self.ra_max], [self.dec_min, self.dec_max]))
        return ra, dec, math.degrees(_angles(corners, centre).max())


@dataclass(frozen=True)
class Footprint:
    """
    The sky of an image, widened; from :func:`~galprep_dask.gaia.make_footprint`.

    Attributes
    ----------
    wcs : astropy.wcs.WCS
        Celestial, two axes.
    shape : (int, int)
        ``(ny, nx)``.
    margin_px : float
        How far outside the image a source still belongs to it.
    ra, dec, radius : (n,) float arrays
        In degrees: caps that together hold the image, its margin and whatever may move into it.
    """

    wcs: WCS
    shape: tuple[int, int]
    margin_px: float
    ra: np.ndarray
    dec: np.ndarray
    radius: np.ndarray

    def boxes(self) -> list[Box]:
        """List boxes of RA and Dec, one or two a cap, that hold the footprint."""
        return [box for cap in zip(self.ra, self.dec, self.radius, strict=True) for box in _boxes_of_cap(*cap)]

    def hull(self) -> list[Box]:
        """Give one box around all, or two where it crosses RA = 0."""
        boxes = self.boxes()
        low, high = min(box.dec_min for box in boxes), max(box.dec_max for box in boxes)
        start, end = _shortest_arc(sorted((box.ra_min, box.ra_max) for box in boxes))
        if end <= 360:
            return [Box(start, end, low, high)]
        return [Box(start, 360.0, low, high), Box(0.0, end - 360, low, high)]

    def to_pixels(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give 0-based pixel positions of ICRS positions in degrees; NaN off the projection."""
        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        world = in_frame_of(self.wcs, ra, dec)
        x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
        good = np.isfinite(ra) & np.isfinite(dec)
        if good.any():
            x[good], y[good] = self.wcs.all_world2pix(*(axis[good] for axis in world), 0, quiet=True)
            # A projection has two sides, and far outside an image the inverse of a distortion finds anything.
            back = pixels_to_sky(self.wcs, x, y)
            with np.errstate(invalid="ignore"):
                off = _angles(unit_vectors(*back), unit_vectors(ra, dec)) > math.radians(1 / 3600)
            x[off], y[off] = np.nan, np.nan
        return x, y

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tell which pixel positions lie on the image or within the margin."""
        ny, nx = self.shape
        low = -0.5 - self.margin_px
        with np.errstate(invalid="ignore"):
            return (x >= low) & (x <= nx - 0.5 + self.margin_px) & (y >= low) & (y <= ny - 0.5 + self.margin_px)


def make_footprint(
    wcs: WCS | fits.Header | str, shape: tuple[int, int], *, margin_arcsec: float = 0.0, motion_deg: float = 0.0
) -> Footprint:
    """
    Cover an image with caps.

    Parameters
    ----------
    wcs : WCS, Header or str
        Where the image lies.
    shape : (int, int)
        ``(ny, nx)``.
    margin_arcsec : float
        How far outside the image a source still belongs to it.
    motion_deg : float
        How far a source may move between its catalogue's epoch and the image's.

    Returns
    -------
    Footprint

    Raises
    ------
    MissingWCSError
        There is no celestial WCS, or no pixel of the image is on the sky.
    ParameterError
        ``shape`` or a margin makes no sense.

    Examples
    --------
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [0.0, 30.0], [50.5, 50.5]
    >>> footprint = make_footprint(wcs, (100, 100))
    >>> x, y = footprint.to_pixels([0.0, 180.0], [30.0, -30.0])
    >>> footprint.contains(x, y).tolist()
    [True, False]
    """
    wcs = _celestial(wcs)
    ny, nx = _checked_shape(shape)
    if not (is_finite(margin_arcsec) and margin_arcsec >= 0):
        raise ParameterError(f"margin_arcsec={margin_arcsec!r}; expected zero or a positive number of arcsec.")
    scale = math.sqrt(proj_plane_pixel_area(wcs)) * 3600
    margin_px = margin_arcsec / scale

    # Pieces as square as can be: long images get more of them along their long side.
    longest = max(ny, nx)
    pieces_y, pieces_x = (max(1, math.ceil(_MOST_PIECES * n / longest)) for n in (ny, nx))
    x = np.linspace(-0.5 - margin_px, nx - 0.5 + margin_px, pieces_x * (_POINTS - 1) + 1)
    y = np.linspace(-0.5 - margin_px, ny - 0.5 + margin_px, pieces_y * (_POINTS - 1) + 1)
    points = unit_vectors(*pixels_to_sky(wcs, *np.meshgrid(x, y)))

    centres, radii = [], []
    for i in range(pieces_y):
        for j in range(pieces_x):
            rows, columns = (slice(k * (_POINTS - 1), (k + 1) * (_POINTS - 1) + 1) for k in (i, j))
            piece = points[rows, columns].reshape(-1, 3)
            piece = piece[np.isfinite(piece).all(axis=1)]
            if not len(piece):
                continue
            centre = piece.mean(axis=0)
            centre /= np.linalg.norm(centre)
            centres.append(centre)
            # Between the points a curved edge reaches a little further out than at them.
            radii.append(1.05 * math.degrees(_angles(piece, centre).max()) + motion_deg)
    if not centres:
        raise MissingWCSError("no pixel of the image is on the sky. Check the WCS and the shape (ny, nx).")
    cx, cy, cz = np.transpose(centres)
    ra, dec = np.degrees(np.arctan2(cy, cx)) % 360, np.degrees(np.arctan2(cz, np.hypot(cx, cy)))
    return Footprint(wcs, (ny, nx), margin_px, ra, dec, np.array(radii))


def cut_to(footprint: Footprint, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Tell which positions, in degrees with RA in any range, lie in the boxes around the footprint."""
    inside = np.zeros(np.shape(ra), bool)
    ra = np.asarray(ra, float) % 360
    for box in footprint.hull():
        inside |= (ra >= box.ra_min) & (ra <= box.ra_max) & (dec >= box.dec_min) & (dec <= box.dec_max)
    return inside


def cells_of(footprint: Footprint, size: float) -> list[Box]:
    """
    List the cells that the footprint touches, of a grid that is the same for every image.

    Bands of ``size`` degrees in Dec, each cut in RA into equal cells at most ``size`` degrees wide: no cell crosses
    RA = 0, none overlaps another, and together they are the sky.

    Parameters
    ----------
    footprint : Footprint
        What is to be covered.
    size : float
        In degrees.

    Returns
    -------
    list of Box
        In order of Dec, then RA.
    """
    n_bands = math.ceil(180 / size)
    found = set()
    for box in footprint.boxes():
        first, last = (min(max(math.floor((dec + 90) / size), 0), n_bands - 1) for dec in (box.dec_min, box.dec_max))
        for band in range(first, last + 1):
            n_cells = _cells_in_band(band, size)
            left, right = (min(math.floor(ra * n_cells / 360), n_cells - 1) for ra in (box.ra_min, box.ra_max))
            found.update((band, cell) for cell in range(left, right + 1))
    cells = []
    for band, cell in sorted(found):
        n_cells = _cells_in_band(band, size)
        low, high = band * size - 90, min((band + 1) * size - 90, 90.0)
        cells.append(Box(cell * 360 / n_cells, (cell + 1) * 360 / n_cells, low, high))
    return cells


def _cells_in_band(band: int, size: float) -> int:
    low, high = band * size - 90, min((band + 1) * size - 90, 90.0)
    widest = 0.0 if low < 0 < high else min(abs(low), abs(high))
    return max(math.ceil(360 * math.cos(math.radians(widest)) / size), 3)


def _boxes_of_cap(ra: float, dec: float, radius: float) -> list[Box]:
    low, high = max(dec - radius, -90.0), min(dec + radius, 90.0)
    if dec + radius >= 90 or dec - radius <= -90:
        return [Box(0.0, 360.0, low, high)]
    # Half the extent in RA of a cap that holds no pole: sin = sin(radius) / cos(dec), from the tangent meridian.
    half = math.degrees(math.asin(min(math.sin(math.radians(radius)) / math.cos(math.radians(dec)), 1.0)))
    left, right = ra - half, ra + half
    if left < 0:
        return [Box(left + 360, 360.0, low, high), Box(0.0, right, low, high)]
    if right > 360:
        return [Box(left, 360.0, low, high), Box(0.0, right - 360, low, high)]
    return [Box(left, right, low, high)]


def _shortest_arc(intervals: list[tuple[float, float]]) -> tuple[float, float]:
    """Give the shortest arc (start, end), end up to 720, that holds all intervals of 0..360, sorted."""
    gaps = []
    reach = intervals[0][1]
    for left, right in intervals[1:]:
        gaps.append((left - reach, reach, left))
        reach = max(reach, right)
    gaps.append((intervals[0][0] + 360 - reach, reach, intervals[0][0] + 360))
    width, end, start = max(gaps)
    if width <= 0:
        return 0.0, 360.0
    start %= 360
    return start, end if end >= start else end + 360


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Give directions, in degrees, as unit vectors along a last axis."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _angles(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Angles in radians between unit vectors, exact for small ones too."""
    return 2 * np.arcsin(np.minimum(np.linalg.norm(one - other, axis=-1) / 2, 1.0))


def _celestial(wcs: WCS | fits.Header | str) -> WCS:
    if isinstance(wcs, fits.Header | str):
        return celestial_wcs(wcs)
    if not isinstance(wcs, WCS):
        raise ParameterError(f"wcs is a {type(wcs).__name__}; expected an astropy WCS or a FITS header.")
    if not wcs.has_celestial:
        raise MissingWCSError("wcs has no celestial axes. Give one that has, or use pixel positions.")
    return wcs if wcs.naxis == 2 else wcs.celestial


def _checked_shape(shape) -> tuple[int, int]:
    try:
        ny, nx = (int(n) for n in shape)
    except (TypeError, ValueError):
        raise ParameterError(f"shape={shape!r}; expected (ny, nx).") from None
    if ny < 1 or nx < 1:
        raise ParameterError(f"shape={shape!r}; expected (ny, nx), both positive.")
    return ny, nx
