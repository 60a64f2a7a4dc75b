"""Sources and positions on the sky: which belongs to which."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.spatial import cKDTree

from galprep_dask.errors import (
    GaiaUnavailableError,
    GalprepError,
    MissingWCSError,
    NoGaiaWarning,
    NoStarsError,
    ParameterError,
)
from galprep_dask.gaia.match import one_to_one
from galprep_dask.image import celestial_wcs, sky_to_pixels

__all__ = ["listed_positions", "match_gaia", "nearest_source", "pixel_positions", "rows_at", "table_positions"]


def pixel_positions(ra, dec, header, what: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Bring positions on the sky into the image.

    Parameters
    ----------
    ra, dec : (n,) arrays or Quantities
        In degrees where there is no unit.
    header : Header or str
        With a celestial WCS.
    what : str
        What to call them in an error.

    Returns
    -------
    x, y : (n,) arrays
        Pixels; NaN for what the projection does not reach.

    Raises
    ------
    MissingWCSError
        There is no WCS.
    ParameterError
        They are no positions in degrees.
    """
    if header is None:
        raise MissingWCSError(f"{what} are positions on the sky: header= is needed, with a celestial WCS.")
    ra, dec = (np.asarray(getattr(a, "to_value", lambda _, a=a: a)("deg"), float) for a in (ra, dec))
    wrong = (np.abs(dec) > 90) | (np.abs(ra) > 360)
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ParameterError(
            f"{what} hold ra={ra.flat[k]}, dec={dec.flat[k]}, which is no position in degrees. Are they swapped?"
        )
    x, y = np.full((2, ra.size), np.nan)
    known = np.isfinite(ra) & np.isfinite(dec)
    if known.any():
        x[known], y[known] = sky_to_pixels(celestial_wcs(header), ra[known], dec[known])
    return x, y


def table_positions(table, header, what: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Read the positions of a table: its columns x and y, or ra and dec.

    Parameters
    ----------
    table : Table, QTable or mapping
        Names in upper or lower case.
    header : Header or str or None
        For ra and dec.
    what : str
        What to call it in an error.

    Returns
    -------
    x, y : (n,) arrays
        Pixels; NaN where they are unknown.

    Raises
    ------
    ParameterError
        There are no such columns.
    MissingWCSError
        There is no WCS.
    """
    names = list(getattr(table, "colnames", None) or table)
    lower = {str(name).lower(): name for name in names}
    for pair in (("x", "y"), ("ra", "dec")):
        if all(name in lower for name in pair):
            one, other = (table[lower[name]] for name in pair)
            if pair[0] == "ra":
                return pixel_positions(_filled(one), _filled(other), header, f"the rows of {what}")
            return np.asarray(_filled(one), float), np.asarray(_filled(other), float)
    raise ParameterError(
        f"{what} has columns {', '.join(map(str, names))}; expected ra and dec in degrees, or x and y in pixels."
    )


def _filled(column):
    return column.filled(np.nan) if hasattr(column, "filled") else column


def nearest_source(x, y, among_x, among_y, radius: float) -> np.ndarray:
    """
    Find the nearest of some positions to each of others.

    Parameters
    ----------
    x, y : (n,) arrays
        Whose neighbours are looked for; what is not finite has none.
    among_x, among_y : (m,) arrays
        Where they are looked for.
    radius : float
        How far off they may be, in pixels.

    Returns
    -------
    (n,) int array
        Row of the nearest; -1 where none is within ``radius``.
    """
    found = np.full(len(x), -1)
    here, there = np.isfinite(x) & np.isfinite(y), np.flatnonzero(np.isfinite(among_x) & np.isfinite(among_y))
    if here.any() and len(there):
        tree = cKDTree(np.column_stack([among_x[there], among_y[there]]))
        distance, row = tree.query(np.column_stack([x[here], y[here]]), distance_upper_bound=radius)
        found[here] = np.where(np.isfinite(distance), there[np.minimum(row, len(there) - 1)], -1)
    return found


def match_gaia(x, y, gaia, crossmatch: bool | str, header, shape, radius: float) -> np.ndarray:
    """
    Find the Gaia source of each source, one to one.

    The closest pair is taken first, then the closest of those that are left, as :func:`galprep_dask.gaia.match_pixels`
    does.

    Parameters
    ----------
    x, y : (n,) arrays
        Positions of the sources in pixels.
    gaia, crossmatch, header
        As for :func:`galprep_dask.psf.select_stars`.
    shape : (int, int)
        Of the image.
    radius : float
        In pixels.

    Returns
    -------
    (n,) int array
        Row in the table, -1 for those without, none of them twice; all are -1 where Gaia is not looked at.

    Raises
    ------
    GalprepError, OSError
        There is no table or no match, and ``crossmatch`` is True.

    Warns
    -----
    NoGaiaWarning
        The same, and ``crossmatch`` is "auto".
    """
    nothing = np.full(len(x), -1)
    if crossmatch is False or (crossmatch == "auto" and gaia is None):
        return nothing
    try:
        if gaia is None:
            raise GaiaUnavailableError(
                "crossmatch=True needs stars of Gaia, and gaia= is None. Pass gaia=, a table on disk as "
                "galprep_dask.gaia.gaia_sources reads it (or a function that asks the archive), "
                'or crossmatch="auto" or False to do without Gaia.'
            )
        table = gaia(header, shape) if callable(gaia) else gaia
        gaia_x, gaia_y = table_positions(table, header, "gaia")
        # Chunks change the last digits of a centroid; which of two is closer shall not hang on them.
        sources = np.round(np.column_stack([x, y]), 6)
        row, _ = one_to_one(sources, np.column_stack([gaia_x, gaia_y]), radius)
        if (row >= 0).any():
            return row
        inside = (gaia_x > -0.5) & (gaia_x < shape[1] - 0.5) & (gaia_y > -0.5) & (gaia_y < shape[0] - 0.5)
        raise NoStarsError(
            f"none of {len(row)} sources lies within {radius:.1f} pixels of one of Gaia; of its {len(gaia_x)} rows, "
            f"{np.count_nonzero(inside)} are in the image.\n"
            "    Check the WCS, the epoch of the positions, and that right ascensions are in degrees, not hours."
        )
    except (GalprepError, OSError) as error:
        if crossmatch is True:
            raise
        warnings.warn(f"stars are chosen by size and magnitude alone, for {error}", NoGaiaWarning, stacklevel=3)
        return nothing


def listed_positions(coordinates, header, name: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Bring a list of positions on the sky into the image.

    Parameters
    ----------
    coordinates : (n, 2) array or Quantity
        Right ascensions and declinations, in degrees where there is no unit.
    header : Header or None
        With a WCS.
    name : str
        What to call them in an error.

    Returns
    -------
    x, y : (n,) arrays
        Pixels.

    Raises
    ------
    ParameterError, MissingWCSError
        They are no such list; there is no WCS.
    """
    table = getattr(coordinates, "to_value", lambda _: coordinates)("deg")
    try:
        table = np.asarray(table, float)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} is no list of [ra, dec] in degrees: {error}.") from error
    if table.ndim != 2 or table.shape[1] != 2 or len(table) == 0:
        raise ParameterError(f"{name} has shape {table.shape}; expected [[ra, dec], ...] in degrees.")
    return pixel_positions(table[:, 0], table[:, 1], header, name)


def rows_at(x, y, coordinates, header, radius: float) -> np.ndarray:
    """
    Find the sources at positions on the sky that are to be left out.

    Parameters
    ----------
    x, y : (n,) arrays
        Of the sources.
    coordinates, header
        As for :func:`listed_positions`.
    radius : float
        In pixels.

    Returns
    -------
    (m,) int array

    Raises
    ------
    ParameterError
        Nothing is there.
    """
    at_x, at_y = listed_positions(coordinates, header, "drop_coordinates")
    rows = nearest_source(at_x, at_y, x, y, radius)
    if (rows < 0).any():
        k = int(np.argmax(rows < 0))
        raise ParameterError(
            f"drop_coordinates has {coordinates[k]}, at x={at_x[k]:.1f}, y={at_y[k]:.1f}, where no source lies within "
            f"{radius:.1f} pixels."
        )
    return rows
