"""A cutout: a lazy slice of an image around a target, with a WCS that still holds."""

from __future__ import annotations

import re
import warnings

import dask.array as da
import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io import fits

from galprep_dask.cutouts.position import first_pixels
from galprep_dask.errors import EdgeWarning, ParameterError, TargetOutsideError
from galprep_dask.image import describe, header_text, image_header, pixel_scale, sky_to_pixel, with_header
from galprep_dask.io.small_fits import card_text

__all__ = ["cut_header", "cutout"]

#: What lies beyond the edge of an image, where it does not follow from the dtype of the plane.
_BEYOND = {"weight": 0.0}

#: Characters that a comment may have beside any number.
_COMMENT = 47

#: Padding up to this many pixels is taken for meant, however small the image; beyond, for a wrong unit.
_MOST_PADDING = 2**26


def cutout(image: xr.Dataset, ra: float, dec: float, size) -> xr.Dataset:
    """
    Cut a rectangle around a target out of an image and all its planes, lazily.

    Parameters
    ----------
    image : Dataset
        An image, or a cube, which is cut along its last two axes.
    ra, dec : float or Quantity
        Position of the target in ICRS, in degrees where there is no unit; whatever the coordinates of the image.
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
    if not is_inside(x, y, width, height):
        raise TargetOutsideError(outside(ra, dec, x, y, width, height, where))
    if too_large(ny, nx, height, width):
        raise ParameterError(too_large_text(ny, nx, height, width, where))
    return cut_at(image, int(first_pixels(y, ny)), int(first_pixels(x, nx)), ny, nx)


def is_inside(x, y, width, height):
    """Tell whether a position is on a pixel of the image."""
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def outside(ra, dec, x, y, width, height, where) -> str:
    """Say that a target is outside the image, and where it would be."""
    return f"ra={ra}, dec={dec} is at pixel x={x:.1f}, y={y:.1f}, outside {where}, which has {width} x {height} pixels."


def too_large(ny, nx, height, width):
    """Tell whether a cutout would be padding for the most part, and much of it."""
    return (ny * nx > 4.0 * height * width) & (ny * nx > 1.0 * _MOST_PADDING)


def too_large_text(ny, nx, height, width, where) -> str:
    """Say that a cutout is far larger than the image."""
    return (
        f"a cutout of {nx:.0f} x {ny:.0f} pixels is far larger than {where}, which has {width} x {height}. "
        "Check the size: a number is in pixels, an angle needs a unit."
    )


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
        data = cut["data"]
        cut = cut.assign(mask=xr.zeros_like(data[(0,) * (data.ndim - 2)], dtype=bool))
    planes = {}
    for name, plane in cut.data_vars.items():
        if plane.dims[-2:] != ("y", "x"):  # the PSF of a product file
            planes[name] = plane
            continue
        widths = ((0, 0),) * (plane.ndim - 2) + pad
        planes[name] = (plane.dims, da.pad(plane.data, widths, constant_values=beyond(name, plane.dtype)))
    return xr.Dataset(planes, attrs=cut.attrs)


def beyond(name: str, dtype: np.dtype) -> float | bool:
    """Value beyond the edge of the image: NaN, masked, no weight, no segment."""
    return _BEYOND.get(name, {"f": np.nan, "b": True}.get(np.dtype(dtype).kind, 0))


def _sides(size, header: fits.Header, where: str) -> tuple[int, int]:
    sides = in_pixels(size, header, where)
    if sides.size not in (1, 2) or not is_a_size(sides).all():
        raise ParameterError(f"size={size!r}; {WANTED_SIZE}.")
    ny, nx = np.broadcast_to(sides.ravel(), (2,))
    return int(ny), int(nx)


#: What a size is, as an error says it.
WANTED_SIZE = "expected one or two whole numbers of pixels, 1 or more, or angles"


def is_a_size(sides: np.ndarray) -> np.ndarray:
    """Tell which numbers of pixels a cutout can have along a side."""
    return (sides >= 1) & (sides == np.round(sides)) & np.isfinite(sides)


def in_pixels(size, header: fits.Header, where: str) -> np.ndarray:
    """Give a size, in pixels or an angle on the sky, as an array of pixels, angles rounded to whole ones."""
    sides = size if isinstance(size, tuple | list) else (size,)
    try:
        if any(isinstance(side, u.Quantity) for side in sides):
            return np.round(u.Quantity(size).to_value("arcsec") / pixel_scale(header, where=where))
        return np.asarray(size, dtype=float)
    except (TypeError, ValueError) as error:  # astropy's UnitConversionError is a TypeError
        raise ParameterError(f"size={size!r}; {WANTED_SIZE}.") from error


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
    for keyword, value, comment in _moved(_own_cards(header), x0, y0, nx, ny):
        header[keyword] = (value, comment)
    return header


def header_pattern(header: fits.Header) -> tuple:
    """
    Prepare what :func:`header_of_cut` needs of a header, so that it is not read and written anew for every cutout.

    Parameters
    ----------
    header : Header
        Of the parent.

    Returns
    -------
    tuple
        The text of the header, line by line; and of each card that a cutout has of its own the number of its line, the
        value that its line has, and the card. It is small and may travel with a graph.
    """
    width, height = header.get("NAXIS1", 1), header.get("NAXIS2", 1)
    lines = header_text(cut_header(header, 0, 0, width, height)).split("\n")
    starts = [line[:8].rstrip() for line in lines]
    cards = _own_cards(header)
    places = [(starts.index(keyword), value) for keyword, value, _ in _moved(cards, 0, 0, width, height)]
    return tuple(lines), tuple(places), tuple(cards)


def header_of_cut(pattern: tuple, x0: int, y0: int, nx: int, ny: int) -> str:
    """Give the text of the header that :func:`cut_header` would give."""
    lines, places, cards = pattern
    lines = list(lines)
    for (line, before), card in zip(places, _moved(cards, x0, y0, nx, ny), strict=True):
        if card[1] != before:
            lines[line] = card_text(*card)
    return "\n".join(lines)


def _moved_keywords(header: fits.Header) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """CRPIX keywords of every WCS in a header, along x and along y."""
    found = {key[5:] for key in header if re.fullmatch(r"(CTYPE|CRVAL|CRPIX|CDELT)[12][A-Z]?", key)}
    return tuple(tuple(f"CRPIX{version}" for version in sorted(found) if version[0] == axis) for axis in "12")


def _own_cards(header: fits.Header) -> list[tuple]:
    """Keyword, axis, value and comment of all that a cutout has of its own; None for the length of an axis."""
    keywords, cards = _moved_keywords(header), []
    for axis in (0, 1):
        # CRPIX is 0 where a header leaves it out.
        cards += [(keyword, axis, header.get(keyword, 0.0), _comment(header, keyword)) for keyword in keywords[axis]]
        ltv, naxis = f"LTV{axis + 1}", f"NAXIS{axis + 1}"
        cards.append((ltv, axis, header.get(ltv, 0.0), "minus the offset in the parent image [px]"))
        if naxis in header:
            cards.append((naxis, axis, None, _comment(header, naxis)))
    return cards


def _moved(cards, x0, y0, nx, ny):
    """Give keyword, value and comment of such cards for one cutout."""
    offsets, lengths = (x0, y0), (nx, ny)
    for keyword, axis, value, comment in cards:
        yield keyword, lengths[axis] if value is None else value - offsets[axis], comment


def _comment(header: fits.Header, keyword: str) -> str:
    comment = header.comments[keyword] if keyword in header else ""
    return comment[:_COMMENT]  # astropy would warn of each that it cuts off
