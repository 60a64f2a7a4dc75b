"""The cutout file: image, mask, sigma, and on request PSF and model, as GalfitS and GALFIT read them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from astropy.io import fits

from galprep_dask.arrays import ImageLike, check_same_shape
from galprep_dask.cutouts.findings import LEVELS
from galprep_dask.cutouts.planes import read_planes
from galprep_dask.cutouts.product_header import fill_in, primary_of, target_cards
from galprep_dask.cutouts.provenance import provenance_cards
from galprep_dask.cutouts.psf_checks import check_psf, psf_centre
from galprep_dask.errors import HDUError, ImageShapeError, NoGoodPixelsError, ParameterError, PSFWarning
from galprep_dask.image import header_text, make_image
from galprep_dask.io.atomic import atomic_path, check_output
from galprep_dask.io.header import KEYWORDS, find_quantity
from galprep_dask.io.small_fits import Form, card_text, form_of, hdu_bytes

__all__ = ["read_product", "write_product"]

_COMMENTS = {"gain": "[e-/count] gain", "exptime": "[s] exposure time", "zeropoint": "[mag] photometric zero point"}


def write_product(
    path: str | os.PathLike,
    image: ImageLike | xr.Dataset,
    *,
    mask: ImageLike | None = None,
    sigma: ImageLike | None = None,
    psf: ImageLike | None = None,
    model: ImageLike | None = None,
    header: fits.Header | None = None,
    ra: float | None = None,
    dec: float | None = None,
    keywords: Iterable[tuple] = (),
    parameters: Mapping[str, Any] | None = None,
    source: str | os.PathLike | tuple | None = None,
    history: Iterable[str] = (),
    overwrite: bool = False,
) -> Path:
    """
    Write a cutout as one FITS file that a galaxy-fitting code can be pointed at.

    Parameters
    ----------
    path : str or path
        The file.
    image : (ny, nx) array, or Dataset
        Sky-subtracted cutout, HDU 0, written as float32. Pixels that are not finite are masked, and written as 0: a
        NaN would reach the gradient of a fit even under a mask. A Dataset, such as :func:`galprep_dask.cutouts.cutout`
        gives, brings its mask, sigma, header, unit, gain, exposure, zero point and source along.
    mask : (ny, nx) bool array, optional
        True = not to be fitted; HDU 1, uint8, 1 = bad. Non-finite pixels are added. In place of that of a Dataset.
    sigma : (ny, nx) array, optional
        1-sigma uncertainty in the unit of ``image``; HDU 2, float32. Where it is not finite and positive
        the pixel is masked and gets the median of the others. In place of that of a Dataset.
    psf, model : array, optional
        Appended in this order, as float32. The PSF is written as it is given; what a fit would stumble over is warned
        of. Its sum and centroid are in its header, as PSFSUM, PSFXOFF and PSFYOFF.
    header : Header, optional
        Of the cutout, with its WCS.
    ra, dec : float or Quantity, optional
        Of the target in degrees, written as RA_TARG and DEC_TARG, and as RA and DEC where the header has none.
    keywords : iterable of (keyword, value, comment)
        Further keywords; those of None are left out.
    parameters : mapping, optional
        What the steps before were called with; written as JSON (GPPARAM) with its hash (GPHASH).
    source : path or (path, hdu), optional
        The image that the cutout was made of; its name, size and the hash of its header are written (GPINPUT,
        GPINHDU, GPINSIZE, GPINHASH).
    history : iterable of str
        Lines for HISTORY.
    overwrite : bool
        Whether a file that exists may be replaced.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    OutputExistsError, OutputError
        The file exists, or cannot be written; nothing half-written stays.
    ImageShapeError
        The shapes of image, mask, sigma and model differ, or one is not two-dimensional.
    NoGoodPixelsError
        No pixel is left to be fitted, or no pixel of ``sigma`` is usable.
    ParameterError
        The PSF has pixels that are not finite, or no positive sum; (ra, dec) is no position; a keyword cannot be
        written.

    Warns
    -----
    PSFWarning
        The PSF has even sides, its sum differs from 1 by 1e-6 or more, or its centroid lies 0.005 px or more off the
        middle.
    NoWCSWarning, DistortionWarning, TargetOutsideWarning
        The header has no celestial WCS, or one that needs tables of its own file; the target is not in the cutout.

    Notes
    -----
    The same input gives the same bytes. Every HDU has CHECKSUM and DATASUM.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = write_product(folder.name + "/cut.fits", np.ones((5, 5)), sigma=np.full((5, 5), 0.1))
    >>> with fits.open(path) as hdus:
    ...     [hdu.name for hdu in hdus]
    ['PRIMARY', 'MASK', 'SIGMA']
    >>> read_product(path)["sigma"].shape
    (5, 5)
    >>> folder.cleanup()
    """
    path = check_output(path, overwrite)
    where = repr(os.fspath(path))
    cards: list[tuple] = []
    primary = primary_of(None if header is None else header_text(header))
    if isinstance(image, xr.Dataset):
        primary = primary_of(image.attrs.get("header", "")) if header is None else primary
        mask = image.get("mask") if mask is None else mask
        sigma = image.get("sigma") if sigma is None else sigma
        source = (image.attrs.get("path"), image.attrs.get("hdu")) if source is None else source
        cards = _quantities(image.attrs, primary.header)
        image = image["data"]
    if np.ndim(image) != 2 or 0 in np.shape(image):
        shape = np.shape(image)
        raise ImageShapeError(f"the image has shape {shape}; expected a two-dimensional cutout with pixels.")
    for name, plane in (("mask", mask), ("sigma", sigma), ("model", model)):
        if plane is not None:
            check_same_shape(plane, np.shape(image), name, owner="the image")
    planes = [plane.data if isinstance(plane, xr.DataArray) else plane for plane in (image, mask, sigma, psf, model)]
    if any(map(dask.is_dask_collection, planes)):
        planes = dask.compute(*planes)  # one pass over what they share
    image, mask, sigma, psf, model = planes
    image, bad, sigma = _usable(image, mask, sigma, where)

    primary.warn(where)
    cards = target_cards(primary, ra, dec, image.shape, where) + cards
    source = source if isinstance(source, tuple) or source is None else (source, None)
    cards += [card for card in keywords if card[1] is not None] + provenance_cards(source, parameters)
    cards.append(("GPPLANES", "mask" if sigma is None else "mask sigma", "planes of the image in the extensions"))
    cards.append(("GPNBAD", int(bad.sum()), "pixels not to be fitted"))
    try:
        form, own, unit = fill_in(primary, cards, [history] if isinstance(history, str) else history)
    except ValueError as error:
        raise ParameterError(f"a keyword or a line of history cannot be written to {where}: {error}.") from None

    unit = [("BUNIT", value, None) for value in unit]
    hdus = [hdu_bytes(form, own, image), _extension("MASK", bad.astype(np.uint8))]
    if sigma is not None:
        hdus.append(_extension("SIGMA", sigma, unit))
    if psf is not None:
        hdus.append(_extension("PSF", *_checked_psf(psf, where)))
    if model is not None:
        hdus.append(_extension("MODEL", np.array(model, dtype=np.float32), unit))
    with atomic_path(path, overwrite) as temporary:
        temporary.write_bytes(b"".join(hdus))
    return path


def _usable(image, mask, sigma, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Give image, bad pixels and sigma as they are written: finite everywhere."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is masked
        image = np.array(image, dtype=np.float32)
        sigma = None if sigma is None else np.array(sigma, dtype=np.float32)
    bad = ~np.isfinite(image)
    image[bad] = 0.0
    if mask is not None:
        bad |= np.asarray(mask).astype(bool)
    if sigma is not None:
        unusable = ~(np.isfinite(sigma) & (sigma > 0))
        if unusable.all():
            raise NoGoodPixelsError(f"no pixel of sigma for {where} is finite and positive.")
        if unusable.any():
            sigma[unusable] = np.median(sigma[~unusable])
        bad |= unusable
    if bad.all():
        raise NoGoodPixelsError(f"nothing is left to be fitted in {where}: every pixel is masked or not finite.")
    return image, bad, sigma


def _quantities(attrs: Mapping[str, Any], header: fits.Header) -> list[tuple]:
    """Give what an image knows about itself as keywords, where its header does not say the same already."""
    cards = [("BUNIT", attrs["unit"], "unit of the pixels")] if "unit" in attrs else []
    for name, keys in KEYWORDS.items():
        if name in attrs and header.get(keys[0]) != attrs[name]:
            cards.append((keys[0], attrs[name], _COMMENTS[name]))
    return cards


def _extension(name: str, pixels: np.ndarray, cards: Sequence[tuple] = ()) -> bytes:
    form = _extension_form(name, pixels.dtype, pixels.ndim, tuple(keyword for keyword, _, _ in cards))
    return hdu_bytes(form, {card[0]: card_text(*card) for card in cards}, pixels)


@lru_cache
def _extension_form(name: str, dtype: np.dtype, ndim: int, keywords: tuple[str, ...]) -> Form:
    hdu = fits.ImageHDU(np.zeros((1,) * ndim, dtype), name=name)
    if name == "MASK":
        hdu.header.comments["EXTNAME"] = "1 marks pixels not to be fitted"
    for keyword in keywords:
        hdu.header[keyword] = 0
    return form_of(hdu, keywords)


def _checked_psf(psf, where: str) -> tuple[np.ndarray, list[tuple]]:
    """Give a PSF as it is written and what its header says of it, and warn of what a fit would stumble over."""
    psf = np.asarray(psf, dtype=np.float32)
    findings = check_psf(psf)
    if findings[0].check == "psf pixels":
        error = ImageShapeError if psf.ndim != 2 else ParameterError
        raise error(f"the PSF for {where} cannot be used: {findings[0].found}. {findings[0].advice}")
    checks = ("psf sides", "psf sum", "psf centre")
    wrong = [f for f in findings if f.check in checks and f.level in LEVELS[:2]]
    if wrong:
        said = "".join(f"\n    {f.check}: {f.found}. {f.advice}" for f in wrong)
        warnings.warn(f"the PSF is written to {where} as it is, but:{said}", PSFWarning, stacklevel=3)
    dx, dy = psf_centre(psf)
    return psf, [
        ("PSFSUM", float(psf.sum(dtype=np.float64)), "sum of the pixels"),
        ("PSFXOFF", dx, "[px] centroid minus the middle, x"),
        ("PSFYOFF", dy, "[px] centroid minus the middle, y"),
    ]


def read_product(path: str | os.PathLike) -> xr.Dataset:
    """
    Read a cutout file into memory, with all its planes.

    Parameters
    ----------
    path : str or path
        One of ours, or any file with image, mask, sigma, PSF and model in HDUs of this order, or named so.

    Returns
    -------
    xarray.Dataset
        An image: ``data``, and of ``mask``, ``sigma`` and ``model`` what there is, with dims ``(y, x)``; ``psf`` has
        ``(psf_y, psf_x)``. Header, unit, gain, exposure time and zero point are its attributes.

    Raises
    ------
    ImageNotFoundError, ImageFileError
        There is no such file, or it is no FITS file.
    HDUError
        It holds no cutout.
    ImageShapeError
        Planes differ in shape.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = write_product(folder.name + "/cut.fits", np.ones((5, 5)), mask=np.eye(5, dtype=bool))
    >>> cut = read_product(path)
    >>> cut["mask"].dtype, int(cut["mask"].sum())
    (dtype('bool'), 5)
    >>> folder.cleanup()
    """
    found = {}
    for plane in read_planes(path):
        found.setdefault(plane.role, plane)
    if "image" not in found:
        held = ", ".join(f"HDU {plane.hdu}: {plane.role or 'unknown'}" for plane in found.values())
        raise HDUError(f"{os.fspath(path)!r} holds no cutout image, but {held}. Name its HDUs by EXTNAME.")
    primary = found["image"].header
    image = make_image(
        found["image"].pixels, header=primary, unit=str(primary.get("BUNIT", "")).strip() or None,
        path=os.fspath(path), hdu=found["image"].hdu,
        **{name: found[name].pixels for name in ("mask", "sigma") if name in found},
        **{name: find_quantity(name, [primary], where=repr(os.fspath(path))) for name in KEYWORDS},
    )  # fmt: skip
    if "model" in found:
        check_same_shape(found["model"].pixels, image["data"].shape, "model", owner="the image")
        image["model"] = (("y", "x"), found["model"].pixels)
    if "psf" in found:
        image["psf"] = (("psf_y", "psf_x"), found["psf"].pixels)
    return image.load()
