"""A cutout: a lazy slice of an image around a target, with a WCS that still holds."""

from __future__ import annotations

import re
import warnings

import dask.array as da
import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io import fits

from galprep_dask.cutouts.position import nearest_pixel
from galprep_dask.errors import EdgeWarning, ParameterError, TargetOutsideError
from galprep_dask.image import describe, image_header, pixel_scale, sky_to_pixel, with_header

__all__ = ["cut_header", "cutout"]

#: What lies beyond the edge of an image, plane by plane.
_BEYOND = {"data": np.nan, "mask": True, "sigma": np.nan, "weight": 0.0, "segmentation": 0}


def cutout(image: xr.Dataset, ra: float, dec: float, size) -> xr.Dataset:
    """
    Cut a rectangle around a target out of an image and all its planes, lazily.

    Parameters
    ----------
    image : Dataset
        An image, or a cube, which is cut along its last two axes.
    ra, dec : float or Quantity
        Position of the target, in degrees where there is no unit.
    size : int, (int, int), or Quantity
        Side in pixels, or ``(ny, nx)``, or an angle (one or two) on the sky.

    Returns
    -------
    xarray.Dataset
        ``(ny, nx)`` pixels, the target within half a pixel of the middle. Where it crosses the edge of the image it is
        padded with NaN, and a mask marks the padding. Pixel coordinates differ from those of ``image`` by a
        whole number; the header's CRPIX follow, and its LTV1 and LTV2 record it.

    Raises
    ------
    TargetOutsideError
        The target is not in the image.
    ParameterError
        ``size`` or the position makes no sense.
    MissingWCSError
        The image has no celestial WCS.

    Warns
    -----
    EdgeWarning
        The cutout crosses the edge.

    Examples
    --------
    >>> from galprep_dask import make_image
    >>> header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0,
    ...                       "CRPIX1": 50.0, "CRPIX2": 40.0, "CDELT1": -1e-4, "CDELT2": 1e-4})
    >>> image = make_image(np.arange(8000.0).reshape(80, 100), header=header)
    >>> cut = cutout(image, 150.0, 2.0, 11)
    >>> cut["data"].shape, float(cut["data"][5, 5]) == float(image["data"][39, 49])
    ((11, 11), True)
    """
    where = describe(image)
    header = image_header(image)
    ny, nx = _sides(size, header, where)
    x, y = sky_to_pixel(header, ra, dec, where=where)
    height, width = image.sizes["y"], image.sizes["x"]
    if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
        raise TargetOutsideError(
            f"ra={ra}, dec={dec} is at pixel x={x:.1f}, y={y:.1f}, outside {where}, "
            f"which has {width} x {height} pixels."
        )
    y0, x0 = (nearest_pixel(centre - (n - 1) / 2) for centre, n in ((y, ny), (x, nx)))
    return cut_at(image, y0, x0, ny, nx)


def cut_at(image: xr.Dataset, y0: int, x0: int, ny: int, nx: int) -> xr.Dataset:
    """
    Cut ``ny`` x ``nx`` pixels, the first at ``(y0, x0)``; what lies beyond the edges is padded.

    Parameters
    ----------
    image : Dataset
        The image.
    y0, x0 : int
        First row and column, negative where the cutout begins outside.
    ny, nx : int
        Size in pixels.

    Returns
    -------
    xarray.Dataset
    """
    height, width = image.sizes["y"], image.sizes["x"]
    rows = slice(min(max(y0, 0), height), max(min(y0 + ny, height), 0))
    columns = slice(min(max(x0, 0), width), max(min(x0 + nx, width), 0))
    pad = ((rows.start - y0, y0 + ny - rows.stop), (columns.start - x0, x0 + nx - columns.stop))
    cut = image.isel(y=rows, x=columns)
    if any(n for side in pad for n in side):
        warnings.warn(
            f"a cutout of {nx} x {ny} pixels crosses the edge of {describe(image)}: padded by {pad[0][0]} rows below, "
            f"{pad[0][1]} above, {pad[1][0]} columns left, {pad[1][1]} right, which are masked.",
            EdgeWarning, stacklevel=3,
        )  # fmt: skip
        cut = _padded(cut, pad)
    return with_header(cut, cut_header(image_header(image), x0, y0, nx, ny))


def _padded(cut: xr.Dataset, pad) -> xr.Dataset:
    if "mask" not in cut:
        nothing = da.zeros(cut["data"].shape[-2:], chunks=cut["data"].data.chunks[-2:], dtype=bool)
        cut = cut.assign(mask=(("y", "x"), nothing))
    planes = {}
    for name, plane in cut.data_vars.items():
        widths = ((0, 0),) * (plane.ndim - 2) + pad
        planes[name] = (plane.dims, da.pad(plane.data, widths, constant_values=_BEYOND[name]))
    return xr.Dataset(planes, attrs=cut.attrs)


def _sides(size, header: fits.Header, where: str) -> tuple[int, int]:
    if isinstance(size, u.Quantity):
        if not size.unit.is_equivalent(u.arcsec):
            raise ParameterError(f"size={size!r}; expected pixels or an angle.")
        size = np.round(size.to_value("arcsec") / pixel_scale(header, where=where))
    sides = np.broadcast_to(np.asarray(size, dtype=float), (2,)) if np.size(size) in (1, 2) else np.array([np.nan])
    if not (np.isfinite(sides).all() and (sides >= 1).all() and (sides == np.round(sides)).all()):
        raise ParameterError(f"size={size!r}; expected one or two whole numbers of pixels, 1 or more, or angles.")
    return int(sides[0]), int(sides[1])


def cut_header(header: fits.Header, x0: int, y0: int, nx: int, ny: int) -> fits.Header:
    """
    Give the header of a cutout whose first pixel is ``(x0, y0)`` of the parent.

    Parameters
    ----------
    header : Header
        Of the parent. Not modified.
    x0, y0 : int
        0-based pixel of the parent that becomes the first.
    nx, ny : int
        Size of the cutout.

    Returns
    -------
    Header
        CRPIX of every WCS, the alternative ones too, moved by the offset; distortions (SIP, TPV) are relative to CRPIX
        and move along. LTV1 and LTV2 (IRAF's convention) hold minus the offset, added up over cutouts of
        cutouts.
    """
    header = header.copy()
    versions = {key[5:] for key in header if re.fullmatch(r"(CTYPE|CRVAL|CRPIX|CDELT)[12][A-Z]?", key)}
    for axis, offset, length in (("1", x0, nx), ("2", y0, ny)):
        for version in versions:
            if version.startswith(axis):
                # CRPIX is 0 where a header leaves it out.
                header[f"CRPIX{version}"] = header.get(f"CRPIX{version}", 0.0) - offset
        header[f"LTV{axis}"] = (header.get(f"LTV{axis}", 0.0) - offset, "minus the offset in the parent image [px]")
        if f"NAXIS{axis}" in header:
            header[f"NAXIS{axis}"] = length
    return header
