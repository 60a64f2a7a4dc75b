"""The image: an ``xarray.Dataset`` with dims ``("y", "x")``, its attributes, and its sky coordinates.

Variables are ``data`` and, where they are known, ``mask`` (bool, True = bad), ``sigma`` (1-sigma uncertainty),
``weight`` (inverse variance) and ``segmentation`` (int32, 0 = sky). Attributes are plain text and numbers, so
that they survive Zarr and netCDF: ``header`` (the FITS header as text, a card a line), ``unit``, ``gain``
(e-/ADU), ``exptime`` (s), ``zeropoint`` (mag), ``path`` and ``hdu``. What is not known is absent.

A WCS travels as header text and is built where it is used: astropy's WCS objects are not safe to share
between threads.
"""

from __future__ import annotations

import math
import re
import threading
import warnings

import dask.array as da
import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning, NoConvergence
from astropy.wcs.utils import proj_plane_pixel_area, wcs_to_celestial_frame

from galprep_dask.arrays import ImageLike, as_image, as_labels, as_mask, check_same_shape, is_finite
from galprep_dask.errors import (
    DistortionWarning,
    MissingExptimeError,
    MissingGainError,
    MissingKeywordError,
    MissingWCSError,
    MissingZeropointError,
    NoGoodPixelsError,
    ParameterError,
    TargetOutsideError,
)

__all__ = [
    "PLANES",
    "bad_pixels",
    "celestial_wcs",
    "describe",
    "header_text",
    "image_header",
    "make_image",
    "parse_header",
    "pixel_scale",
    "pixels_to_sky",
    "position_in_degrees",
    "require",
    "sky_frame",
    "sky_to_pixel",
    "sky_to_pixels",
    "with_header",
    "without_lookup_tables",
]

#: The variables of an image beside ``data``, with their dtype; None keeps a floating dtype as it is.
PLANES = {"mask": np.dtype(bool), "sigma": None, "weight": None, "segmentation": np.dtype("int32")}

#: Held around ``warnings.catch_warnings``: threads that overlap in it leave the filters of one to all others.
WARNINGS_LOCK = threading.RLock()

_MISSING = {"gain": MissingGainError, "exptime": MissingExptimeError, "zeropoint": MissingZeropointError}


def make_image(
    data: ImageLike,
    *,
    mask: ImageLike | None = None,
    sigma: ImageLike | None = None,
    weight: ImageLike | None = None,
    segmentation: ImageLike | None = None,
    header: fits.Header | str | None = None,
    unit: str | None = None,
    gain: float | None = None,
    exptime: float | None = None,
    zeropoint: float | None = None,
    path: str | None = None,
    hdu: int | None = None,
    chunks=None,
) -> xr.Dataset:
    """
    Put arrays and metadata together to an image Dataset; nothing is computed.

    Parameters
    ----------
    data : (ny, nx) array, or (n, ny, nx) for a cube
        Pixels. Integers become the float type that holds them exactly where there is one: float32 up to
        16 bits, else float64.
    mask, sigma, weight, segmentation : (ny, nx) array, optional
        Planes of the same shape; they are given the chunks of ``data``.
    header : Header or str, optional
        The FITS header, with the WCS.
    unit : str, optional
        Unit of ``data`` and ``sigma``.
    gain, exptime, zeropoint : float, optional
        In e-/ADU, s and mag.
    path, hdu : optional
        Where the pixels come from, for errors and provenance.
    chunks : optional
        Chunks of the image, as in ``dask.array.rechunk``.

    Returns
    -------
    xarray.Dataset
        Lazy, dims ``("y", "x")``, for a cube ``("spectral", "y", "x")``.

    Raises
    ------
    ImageShapeError
        ``data`` is no image, or a plane has another shape.
    ParameterError
        A value is out of its range.

    Examples
    --------
    >>> image = make_image(np.zeros((40, 50), ">i2"), gain=2.5)
    >>> image["data"].dims, image["data"].dtype, image.attrs["gain"]
    (('y', 'x'), dtype('float32'), 2.5)
    """
    for name, value in {"gain": gain, "exptime": exptime}.items():
        if value is not None and not (is_finite(value) and value > 0):
            raise ParameterError(f"{name}={value!r}; expected a positive number.")
    if zeropoint is not None and not is_finite(zeropoint):
        raise ParameterError(f"zeropoint={zeropoint!r}; expected a finite magnitude.")

    if np.ndim(data) == 3:
        data = _as_float(as_image(data, "data", chunks=chunks, ndim=3))
        variables = {"data": (("spectral", "y", "x"), data)}
        plane_chunks, shape = data.chunks[1:], data.shape[1:]
    else:
        data = _as_float(as_image(data, "data", chunks=chunks))
        variables = {"data": (("y", "x"), data)}
        plane_chunks, shape = data.chunks, data.shape
    given = {"mask": mask, "sigma": sigma, "weight": weight, "segmentation": segmentation}
    for name, plane in given.items():
        if plane is None:
            continue
        check_same_shape(plane, shape, name, owner=f"data{_place(path, hdu)}")
        plane = as_image(plane, name, chunks=plane_chunks)
        if name == "mask":
            plane = as_mask(plane, plane)
        elif name == "segmentation":
            plane = int32_labels(plane)
        else:
            plane = _as_float(plane)
        variables[name] = (("y", "x"), plane)

    attrs = {
        "header": None if header is None else header_text(header),
        "unit": None if unit is None else str(unit),
        "gain": None if gain is None else float(gain),
        "exptime": None if exptime is None else float(exptime),
        "zeropoint": None if zeropoint is None else float(zeropoint),
        "path": None if path is None else str(path),
        "hdu": None if hdu is None else int(hdu),
    }
    return xr.Dataset(variables, attrs={name: value for name, value in attrs.items() if value is not None})


def int32_labels(plane: da.Array) -> da.Array:
    """Give labels as they are stored; computing them raises ParameterError where one is not from 0 to 2147483647."""
    if plane.dtype == np.int32 or plane.dtype.kind not in "iu":
        return plane.astype(np.int32)
    return plane.map_blocks(as_labels, dtype=np.int32, meta=np.empty((0, 0), np.int32))


def _as_float(array: da.Array) -> da.Array:
    dtype = float_dtype(array.dtype)
    return array if array.dtype == dtype else array.astype(dtype)


def float_dtype(dtype: np.dtype) -> np.dtype:
    """Give the native float type for pixels of ``dtype``: float32 where it holds every value exactly."""
    dtype = np.dtype(dtype)
    small = dtype.itemsize <= (4 if dtype.kind == "f" else 2)
    return np.dtype("float32" if small else "float64")


def describe(image: xr.Dataset) -> str:
    """Name an image in an error: ``'field_r.fits' [HDU 1]``."""
    return _place(image.attrs.get("path"), image.attrs.get("hdu")).removeprefix(" of ") or "the image"


def _place(path, hdu) -> str:
    if path is None:
        return ""
    return f" of {str(path)!r}" + ("" if hdu is None else f" [HDU {hdu}]")


def require(image: xr.Dataset, name: str, keywords: tuple[str, ...]) -> float:
    """
    Give ``image.attrs[name]``, or raise an error that names the argument and the keywords looked for.

    Parameters
    ----------
    image : Dataset
        The image.
    name : {"gain", "exptime", "zeropoint"}
        Which quantity.
    keywords : tuple of str
        The header keywords that would have given it.

    Returns
    -------
    float

    Raises
    ------
    MissingGainError, MissingExptimeError, MissingZeropointError
        It is not known.
    """
    value = image.attrs.get(name)
    if value is None:
        unit = {"gain": " in e-/ADU", "exptime": " in s", "zeropoint": " in mag"}.get(name, "")
        raise _MISSING.get(name, MissingKeywordError)(
            f"no {name} for {describe(image)}: looked for {', '.join(keywords)}. Pass {name}={unit}."
        )
    return value


def bad_pixels(data: da.Array, mask: da.Array | None = None) -> da.Array:
    """
    Mark the pixels that nothing may depend on: those that are not finite, and those in ``mask``.

    Parameters
    ----------
    data : (ny, nx) dask array
        The image.
    mask : (ny, nx) bool dask array, optional
        Further bad pixels.

    Returns
    -------
    (ny, nx) bool dask array
    """
    bad = ~da.isfinite(data)
    return bad if mask is None else bad | mask


def no_good_pixels(what: str, where: str = "the image") -> NoGoodPixelsError:
    """Make the error for an image without a single good pixel."""
    return NoGoodPixelsError(
        f"cannot {what}: every pixel of {where} is masked or not finite. "
        "Check the mask (True marks bad pixels) and the HDU."
    )


# Header and sky coordinates ------------------------------------------------------------------------------


def header_text(header: fits.Header | str) -> str:
    """Write a header as text, a card a line, as it is kept in ``attrs["header"]``."""
    return header if isinstance(header, str) else header.tostring(sep="\n", endcard=False, padding=False)


def parse_header(text: str) -> fits.Header:
    """Read a header from the text that :func:`header_text` wrote."""
    return fits.Header.fromstring(text, sep="\n")


def image_header(image: xr.Dataset) -> fits.Header:
    """Give a copy of the FITS header of an image, empty if it has none."""
    return parse_header(image.attrs["header"]) if "header" in image.attrs else fits.Header()


def with_header(image: xr.Dataset, header: fits.Header) -> xr.Dataset:
    """Give the image with another header; the one passed in is not modified."""
    return image.assign_attrs(header=header_text(header))


def celestial_wcs(header: fits.Header | str, *, where: str = "the image") -> WCS:
    """
    Build the celestial WCS of a header, anew at every call.

    Parameters
    ----------
    header : Header or str
        FITS header. The celestial axes of a cube are taken.
    where : str
        What to call the image in an error.

    Returns
    -------
    astropy.wcs.WCS
        Two axes; pixel coordinates are 0-based with ``origin=0``.

    Raises
    ------
    MissingWCSError
        There are no celestial axes.

    Warns
    -----
    DistortionWarning
        The header has SIP or TPV terms that its CTYPE does not announce, so that codes differ in
        whether they are applied; or it refers to lookup tables, which are left out.
    """
    header = parse_header(header) if isinstance(header, str) else header
    header = without_lookup_tables(header, where=where)
    wcs = build_wcs(header, where)
    if said := unannounced_distortion(header, where):
        warnings.warn(said, DistortionWarning, stacklevel=2)
    return wcs


def build_wcs(header: fits.Header, where: str) -> WCS:
    """Build the celestial WCS of a header without lookup tables; MissingWCSError where there is none."""
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(header)
        except Exception as error:  # astropy raises many kinds for damaged WCS keywords
            raise MissingWCSError(f"the WCS of {where} cannot be read: {error}. Mend its keywords.") from error
    if not wcs.has_celestial:
        types = ", ".join(f"CTYPE{n}={header.get(f'CTYPE{n}', '')!r}" for n in (1, 2))
        raise MissingWCSError(
            f"{where} has no celestial WCS ({types}). Give it one in the header, or use pixel positions."
        )
    return wcs if wcs.naxis == 2 else wcs.celestial


def without_lookup_tables(header: fits.Header, *, where: str = "the image") -> fits.Header:
    """
    Give a header without the distortions that are tables in other HDUs of its file (CPDIS, D2IMDIS).

    Parameters
    ----------
    header : Header
        FITS header. Not modified.
    where : str
        What to call the image in the warning.

    Returns
    -------
    Header
        The one given where it refers to no table.

    Warns
    -----
    DistortionWarning
        There were such tables; the header's own word for the largest correction is passed on.
    """
    plain, said = split_lookup_tables(header, where)
    if said:
        warnings.warn(said, DistortionWarning, stacklevel=3)
    return plain


def split_lookup_tables(header: fits.Header, where: str) -> tuple[fits.Header, str]:
    """Give what :func:`without_lookup_tables` does, and what there is to say of it; no text where there is nothing."""
    tables = [key for key in header if re.fullmatch(r"(CPDIS|D2IMDIS)\d", key) and _is_lookup(header[key])]
    if not tables:
        return header, ""
    largest = {key: header.get(key.replace("DIS", "ERR")) for key in tables}
    found = ", ".join(key if size is None else f"{key} (up to {size:.3g} px)" for key, size in largest.items())
    said = (
        f"{where} refers to distortions that are tables in other HDUs: {found}. Without them positions are off by as "
        "much. Resample the image to a plain projection where that is too much."
    )
    header = header.copy()
    axes = {(key.startswith("D2IM"), key[-1]) for key in tables}
    for card in list(header.cards):
        # The tables' own keywords: CPDIS1, CPERR1 and DP1.EXTVER, or D2IMDIS1, D2IMERR1 and D2IM1.EXTVER.
        match = re.fullmatch(r"(CPDIS|CPERR|DP|D2IMDIS|D2IMERR|D2IM)(\d)(\..*)?", card.keyword)
        if match and (match[1].startswith("D2IM"), match[2]) in axes:
            del header[card.keyword]
    if not any(key.startswith("D2IMDIS") for key in header):
        header.remove("D2IMEXT", ignore_missing=True)
    return header, said


def _is_lookup(value) -> bool:
    return isinstance(value, str) and value.strip().upper() == "LOOKUP"


def unannounced_distortion(header: fits.Header, where: str) -> str:
    """Say that a header has SIP or TPV terms that its CTYPE does not announce; nothing where it has not."""
    types = [str(header.get(f"CTYPE{n}", "")) for n in (1, 2)]
    if "A_ORDER" in header and not all(name.endswith("-SIP") for name in types):
        found, suffix = "SIP polynomials (A_ORDER)", "-SIP"
    elif any(re.fullmatch(r"PV[12]_([5-9]|[1-3]\d)", key) for key in header) and any(
        name.endswith("-TAN") for name in types
    ):
        found, suffix = "distortion terms (PV1_5 and up)", "TPV"
    else:
        return ""
    return (
        f"{where} has {found}, but CTYPE is {types[0]!r}, {types[1]!r}. astropy applies them, other codes "
        f"may not. Write {suffix!r} into CTYPE, or remove the terms."
    )


def sky_to_pixel(header: fits.Header | str, ra: float, dec: float, *, where: str = "the image") -> tuple[float, float]:
    """
    Pixel position of a point on the sky.

    Parameters
    ----------
    header : Header or str
        FITS header with a celestial WCS.
    ra, dec : float or Quantity
        Position, in degrees where there is no unit.
    where : str
        What to call the image in an error.

    Returns
    -------
    x, y : float
        0-based, pixel centres at integers.

    Raises
    ------
    ParameterError
        The position is no position on the sky.
    TargetOutsideError
        The projection does not reach there.
    MissingWCSError
        There is no celestial WCS.
    """
    ra, dec = position_in_degrees(ra, dec)
    x, y = (float(value[0]) for value in sky_to_pixels(celestial_wcs(header, where=where), [ra], [dec]))
    if not math.isfinite(x):
        raise TargetOutsideError(not_projected(ra, dec, where))
    return x, y


def position_in_degrees(ra, dec) -> tuple[float, float]:
    """Read a position on the sky, two numbers of degrees or Quantities; anything else is a ParameterError."""
    try:
        in_degrees = [float(getattr(angle, "to_value", lambda _, a=angle: a)("deg")) for angle in (ra, dec)]
    except (TypeError, ValueError):  # no number, or in a unit that is no angle
        in_degrees = [math.nan, math.nan]
    if not (all(map(math.isfinite, in_degrees)) and abs(in_degrees[0]) <= 360 and abs(in_degrees[1]) <= 90):
        raise ParameterError(no_position(ra, dec))
    return in_degrees[0], in_degrees[1]


def no_position(ra: float, dec: float) -> str:
    """Say that two numbers are no position on the sky."""
    ra, dec = (value.item() if isinstance(value, np.generic) else value for value in (ra, dec))  # repr: np.float64(2.0)
    return (
        f"ra={ra!r}, dec={dec!r} is no position in degrees: expected ra in 0..360 and dec in -90..90. "
        "Are they swapped, or in hours?"
    )


def not_projected(ra: float, dec: float, where: str) -> str:
    """Say that a projection does not reach a position."""
    return f"ra={ra}, dec={dec} is not on the part of the sky that {where} is a projection of. Check the coordinates."


def sky_to_pixels(wcs: WCS, ra, dec) -> tuple[np.ndarray, np.ndarray]:
    """
    Pixel positions of many points on the sky, each the same as if it were alone.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial, two axes.
    ra, dec : (n,) arrays
        Finite ICRS positions in degrees, whatever the coordinates that the WCS itself is in.

    Returns
    -------
    x, y : (n,) float64 arrays
        0-based; NaN where the projection does not reach.
    """
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    world = in_frame_of(wcs, ra, dec)
    try:
        # Adaptive: a distortion is inverted by iteration, and each point is to stop at its own convergence.
        x, y = wcs.all_world2pix(*world, 0, tolerance=1e-6, maxiter=50, adaptive=True)
    except NoConvergence as error:
        x, y = error.best_solution.T.copy()
        for lost in (error.divergent, error.slow_conv):
            x[[] if lost is None else lost] = np.nan
    except ValueError:  # what wcslib's own errors are
        if len(ra) == 1:
            return np.full(1, np.nan), np.full(1, np.nan)
        return tuple(np.concatenate([sky_to_pixels(wcs, [r], [d]) for r, d in zip(ra, dec, strict=True)], axis=1))
    reached = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(reached, x, np.nan), np.where(reached, y, np.nan)
    if reached.any():  # a projection has two sides
        back = pixels_to_sky(wcs, x[reached], y[reached])
        far = _far_apart(back, (ra[reached], dec[reached]))
        x[np.flatnonzero(reached)[far]] = y[np.flatnonzero(reached)[far]] = np.nan
    return x, y


def pixels_to_sky(wcs: WCS, x, y) -> tuple[np.ndarray, np.ndarray]:
    """
    Positions on the sky of pixels, in ICRS whatever the coordinates that the WCS is in.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial, two axes.
    x, y : arrays
        0-based.

    Returns
    -------
    ra, dec : float64 arrays
        In degrees; NaN off the sky.
    """
    lon, lat = (np.asarray(values, float) for values in _longitude_first(wcs, *wcs.all_pix2world(x, y, 0)))
    frame = sky_frame(wcs)
    if frame is None:
        return lon, lat
    from astropy.coordinates import SkyCoord

    there = SkyCoord(lon, lat, unit="deg", frame=frame).icrs
    return there.ra.deg, there.dec.deg


def in_frame_of(wcs: WCS, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn ICRS positions in degrees into the world coordinates of a WCS, in the order of its axes."""
    frame = sky_frame(wcs)
    if frame is None:
        return _longitude_first(wcs, ra, dec)
    from astropy.coordinates import SkyCoord

    there = SkyCoord(ra, dec, unit="deg", frame="icrs").transform_to(frame).spherical
    return _longitude_first(wcs, there.lon.deg, there.lat.deg)


def sky_frame(wcs: WCS):
    """Give the frame of a WCS, or None where it is ICRS or FK5 of J2000, which differ by 0.02 arcsec.

    Headers that say FK5 (or nothing) come for the most part from astrometry tied to Gaia or 2MASS.
    """
    from astropy.coordinates import FK5, ICRS

    try:
        frame = wcs_to_celestial_frame(wcs)
    except ValueError:  # a planet's longitude and latitude, for one
        return None
    same = isinstance(frame, ICRS) or (isinstance(frame, FK5) and abs(frame.equinox.jyear - 2000) < 1e-3)
    return None if same else frame


def _longitude_first(wcs: WCS, first, second) -> tuple:
    """Swap two coordinates where the latitude is the first axis of a WCS, as in a few headers."""
    return (first, second) if wcs.wcs.lng == 0 else (second, first)


def _far_apart(one, other) -> np.ndarray:
    """Tell whether positions in degrees differ by more than an arcsecond."""
    (ra1, dec1), (ra2, dec2) = np.radians([one, other])
    half = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
    return ~(2 * np.arcsin(np.sqrt(np.minimum(half, 1.0))) <= math.radians(1 / 3600))


def pixel_scale(header: fits.Header | str, *, where: str = "the image") -> float:
    """
    Side in arcsec of a square of a pixel's area, at the reference point.

    Parameters
    ----------
    header : Header or str
        FITS header with a celestial WCS.
    where : str
        What to call the image in an error.

    Returns
    -------
    float

    Raises
    ------
    MissingWCSError
        There is no celestial WCS.
    """
    return math.sqrt(proj_plane_pixel_area(celestial_wcs(header, where=where))) * 3600.0
