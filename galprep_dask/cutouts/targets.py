"""Where the targets of a catalogue lie in an image, and why some cannot be cut out of it."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from galprep_dask.cutouts.cutout import (
    WANTED_SIZE,
    in_pixels,
    is_a_size,
    is_inside,
    outside,
    too_large,
    too_large_text,
)
from galprep_dask.cutouts.position import first_pixels
from galprep_dask.errors import NoTargetsWarning, ParameterError
from galprep_dask.image import celestial_wcs, describe, no_position, not_projected, sky_to_pixels

__all__ = ["place_targets"]


def place_targets(image: xr.Dataset, header: fits.Header, ra, dec, size) -> Table:
    """
    Find the pixels of a cutout around every target.

    Parameters
    ----------
    image : Dataset
        The image.
    header : Header
        Its header.
    ra, dec, size : array_like
        As for :func:`galprep_dask.cutouts.cutout_many`.

    Returns
    -------
    Table
        The one that :func:`galprep_dask.cutouts.cutout_many` gives; where ``cut`` is False nothing but ``ra``, ``dec``
        and ``reason`` need have a meaning.
    """
    where, (height, width) = describe(image), (image.sizes["y"], image.sizes["x"])
    wcs = celestial_wcs(header, where=where)
    ra, dec = _degrees(ra, "ra"), _degrees(dec, "dec")
    if ra.shape != dec.shape:
        raise ParameterError(f"ra has {len(ra)} positions, dec has {len(dec)}; expected as many.")
    ny, nx = _sides_of_targets(size, len(ra), header, where).T
    reason = np.full(len(ra), "", object)

    x, y = np.full((2, len(ra)), np.nan)
    with np.errstate(invalid="ignore"):
        on_sky = (np.abs(ra) <= 360) & (np.abs(dec) <= 90)
    if on_sky.any():
        x[on_sky], y[on_sky] = sky_to_pixels(wcs, ra[on_sky], dec[on_sky])
    projected = np.isfinite(x)
    with np.errstate(invalid="ignore", over="ignore"):
        inside = is_inside(x, y, width, height)
        sized = is_a_size(ny) & is_a_size(nx)
        fits_in = ~too_large(ny, nx, height, width)
    for k in np.flatnonzero(~(inside & sized & fits_in)):
        at = float(ra[k]), float(dec[k])
        if not on_sky[k]:
            reason[k] = no_position(*at)
        elif not projected[k]:
            reason[k] = not_projected(*at, where)
        elif not inside[k]:
            reason[k] = outside(*at, x[k], y[k], width, height, where)
        elif not sized[k]:
            reason[k] = f"size={(float(ny[k]), float(nx[k]))}; {WANTED_SIZE}."
        else:
            reason[k] = too_large_text(ny[k], nx[k], height, width, where)

    cut = reason == ""
    ny, nx = (np.where(cut, side, 0).astype(np.int64) for side in (ny, nx))
    y0, x0 = (first_pixels(np.where(cut, at, 0.0), side) for at, side in ((y, ny), (x, nx)))
    rows = np.minimum(y0 + ny, height) - np.maximum(y0, 0)
    columns = np.minimum(x0 + nx, width) - np.maximum(x0, 0)
    if len(cut) and not cut.any():
        warnings.warn(
            f"none of {len(cut)} targets can be cut out of {where}; the first: {reason[0]} "
            "Are ra and dec swapped, or of another field?",
            NoTargetsWarning, stacklevel=3,
        )  # fmt: skip
    return Table({
        "ra": ra, "dec": dec, "x": x, "y": y, "x0": x0, "y0": y0, "nx": nx, "ny": ny,
        "n_padded": np.where(cut, ny * nx - rows * columns, 0), "cut": cut, "reason": reason,
    })  # fmt: skip


def _degrees(angles, name: str) -> np.ndarray:
    """Give angles, with or without unit or mask, as an array of degrees, NaN where they are masked."""
    masked = getattr(angles, "mask", None)
    angles = getattr(angles, "unmasked", angles)
    try:
        if getattr(angles, "unit", None) is not None:
            degrees = u.Quantity(angles).to_value("deg")
        else:
            degrees = np.ma.getdata(angles)
        degrees = np.atleast_1d(np.array(degrees, dtype=float))
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} cannot be taken for angles: {error}. Expected numbers in degrees.") from error
    if degrees.ndim != 1:
        raise ParameterError(f"{name} has shape {degrees.shape}; expected one position for every target.")
    if masked is not None and np.ndim(masked):
        degrees[np.asarray(masked)] = np.nan
    return degrees


def _sides_of_targets(size, n: int, header: fits.Header, where: str) -> np.ndarray:
    """Rows and columns of each of ``n`` cutouts, as an (n, 2) array of floats, some of which may make no sense."""
    sides = in_pixels(size, header, where)
    for_all = sides.ndim == 0 or (isinstance(size, tuple) and sides.shape == (2,))
    if for_all and not is_a_size(sides).all():
        raise ParameterError(f"size={size!r}; {WANTED_SIZE}.")
    if for_all:
        return np.broadcast_to(sides, (n, 2))
    if sides.shape not in ((n,), (n, 2)):
        raise ParameterError(
            f"size has shape {sides.shape} for {n} targets; expected one for all, a tuple (ny, nx), "
            "or one or two for each in an array (n,) or (n, 2)."
        )
    return np.broadcast_to(sides[:, None], (n, 2)) if sides.ndim == 1 else sides
