"""Which source is which star: nearest neighbours, one to one."""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy.spatial import cKDTree

from galprep_dask.arrays import is_finite
from galprep_dask.errors import NoMatchWarning, ParameterError
from galprep_dask.gaia.footprint import unit_vectors

__all__ = ["match_pixels", "match_sky", "one_to_one"]


def match_pixels(x, y, star_x, star_y, *, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Match sources to stars by their positions in pixels, one to one.

    Parameters
    ----------
    x, y : (n,) arrays
        Sources, for example ``x_centroid`` and ``y_centroid``.
    star_x, star_y : (m,) arrays
        Stars at the image's epoch, ``x`` and ``y`` of :func:`gaia_sources`.
    radius : float
        Largest distance in pixels. The usual one is 1.5 times the FWHM of the PSF.

    Returns
    -------
    index : (n,) int64 array
        Which star a source is; -1 for none.
    distance : (n,) float64 array
        In pixels; NaN where there is none.

    Raises
    ------
    ParameterError
        ``radius`` is not positive, or coordinates differ in number.

    Warns
    -----
    NoMatchWarning
        There are sources and stars, and none match.

    Notes
    -----
    The closest pair is taken first, then the closest of those that are left, until none is within the radius: no star
    is matched twice, and no source. Pairs at the same distance are taken in the order of their rows.

    Examples
    --------
    >>> index, distance = match_pixels([10.0, 11.0, 90.0], [5.0, 5.0, 5.0], [11.2, 50.0], [5.0, 5.0], radius=3.0)
    >>> index.tolist()
    [-1, 0, -1]
    """
    sources, stars = _points("x", x, "y", y), _points("star_x", star_x, "star_y", star_y)
    return _match(sources, stars, _checked_radius(radius, "px"), lambda distance: distance, "px")


def match_sky(ra, dec, star_ra, star_dec, *, radius_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Match sources to stars by their positions on the sky, one to one.

    Parameters
    ----------
    ra, dec : (n,) arrays
        Sources, in degrees.
    star_ra, star_dec : (m,) arrays
        Stars at the image's epoch in degrees, ``ra_obs`` and ``dec_obs`` of :func:`gaia_sources`.
    radius_arcsec : float
        Largest distance in arcsec.

    Returns
    -------
    index : (n,) int64 array
        Which star a source is; -1 for none.
    distance : (n,) float64 array
        In arcsec; NaN where there is none.

    Raises
    ------
    ParameterError
        ``radius_arcsec`` is not positive, or coordinates differ in number.

    Warns
    -----
    NoMatchWarning
        There are sources and stars, and none match.

    See Also
    --------
    match_pixels

    Examples
    --------
    >>> index, distance = match_sky([359.9999], [20.0], [0.0, 10.0], [20.0, 20.0], radius_arcsec=1.0)
    >>> index.tolist(), round(float(distance[0]), 2)
    ([0], 0.34)
    """
    sources = unit_vectors(*_points("ra", ra, "dec", dec, unit="deg").T)
    stars = unit_vectors(*_points("star_ra", star_ra, "star_dec", star_dec, unit="deg").T)
    radius = _checked_radius(radius_arcsec, "arcsec")
    chord = 2 * math.sin(min(math.radians(radius / 3600) / 2, math.pi / 2))
    return _match(sources, stars, chord, lambda c: np.degrees(2 * np.arcsin(np.minimum(c / 2, 1.0))) * 3600, "arcsec")


def one_to_one(sources: np.ndarray, stars: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Match points to others, the closest pair first, then the closest of those that are left.

    Parameters
    ----------
    sources : (n, dims) float array
        Points; those that are not finite match nothing.
    stars : (m, dims) float array
        Others.
    radius : float
        Largest distance.

    Returns
    -------
    index : (n,) int64 array
        Row in ``stars``; -1 for none. No row is there twice.
    distance : (n,) float64 array
        NaN where there is none.
    """
    index, distance = np.full(len(sources), -1, "int64"), np.full(len(sources), np.nan)
    rows, stars_rows = (np.flatnonzero(np.isfinite(points).all(axis=1)) for points in (sources, stars))
    if not len(rows) or not len(stars_rows):
        return index, distance
    tree, others = cKDTree(sources[rows]), cKDTree(stars[stars_rows])
    # Rounding may put a pair at exactly the radius a hair outside.
    pairs = tree.sparse_distance_matrix(others, radius * (1 + 1e-12), output_type="ndarray")
    pairs = pairs[np.lexsort((pairs["j"], pairs["i"], pairs["v"]))]
    while len(pairs):
        # A pair that is the closest of both its members is taken; what is left of theirs goes.
        closest = np.zeros(len(pairs), bool)
        closest[np.unique(pairs["i"], return_index=True)[1]] = True
        of_star = np.zeros(len(pairs), bool)
        of_star[np.unique(pairs["j"], return_index=True)[1]] = True
        taken = pairs[closest & of_star]
        index[rows[taken["i"]]] = stars_rows[taken["j"]]
        distance[rows[taken["i"]]] = taken["v"]
        pairs = pairs[~(np.isin(pairs["i"], taken["i"]) | np.isin(pairs["j"], taken["j"]))]
    return index, distance


def _match(sources: np.ndarray, stars: np.ndarray, radius: float, scale, unit: str) -> tuple[np.ndarray, np.ndarray]:
    index, distance = one_to_one(sources, stars, radius)
    rows, stars_rows = (np.flatnonzero(np.isfinite(points).all(axis=1)) for points in (sources, stars))
    if len(rows) and len(stars_rows) and (index < 0).all():
        nearest = scale(cKDTree(stars[stars_rows]).query(sources[rows])[0].min())
        warnings.warn(
            f"none of {len(rows)} sources matches one of {len(stars_rows)} stars within {scale(radius):.3g} {unit}; "
            f"the closest two are {nearest:.3g} {unit} apart. Check the WCS, the epoch and the radius.",
            NoMatchWarning, stacklevel=3,
        )  # fmt: skip
    return index, scale(distance)


def _points(x_name: str, x, y_name: str, y, unit: str | None = None) -> np.ndarray:
    def plain(values):
        if hasattr(values, "to_value"):
            values = values.to_value(unit) if unit else values.value
        return np.atleast_1d(np.asarray(np.ma.filled(values, np.nan), float)).ravel()

    x, y = plain(x), plain(y)
    if len(x) != len(y):
        raise ParameterError(f"{x_name} has {len(x)} values, but {y_name} has {len(y)}; expected as many.")
    return np.stack([x, y], axis=-1)


def _checked_radius(radius, unit: str) -> float:
    radius = float(radius.to_value(unit)) if hasattr(radius, "to_value") and unit != "px" else float(radius)
    if not (is_finite(radius) and radius > 0):
        raise ParameterError(f"radius={radius!r}; expected a positive number of {unit}.")
    return radius
