"""The cutout file: image, mask, sigma, and on request PSF and model, as GalfitS and GALFIT read them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.io import fits

from galprep_dask._version import __version__
from galprep_dask.arrays import ImageLike, check_same_shape
from galprep_dask.errors import ImageShapeError, NoGoodPixelsError
from galprep_dask.io.atomic import atomic_path
from galprep_dask.io.fits_writer import STRUCTURE

__all__ = ["write_product"]


def write_product(
    path: str | os.PathLike,
    image: ImageLike,
    *,
    mask: ImageLike | None = None,
    sigma: ImageLike | None = None,
    psf: ImageLike | None = None,
    model: ImageLike | None = None,
    header: fits.Header | None = None,
    ra: float | None = None,
    dec: float | None = None,
    keywords: Iterable[tuple] = (),
    history: Iterable[str] = (),
    overwrite: bool = False,
) -> Path:
    """
    Write a cutout as one FITS file that a galaxy-fitting code can be pointed at.

    Parameters
    ----------
    path : str or path
        The file.
    image : (ny, nx) array
        Sky-subtracted cutout, HDU 0, written as float32. Pixels that are not finite are masked, and written as 0: a
        NaN would reach the gradient of a fit even under a mask.
    mask : (ny, nx) bool array, optional
        True = not to be fitted; HDU 1, uint8, 1 = bad. Non-finite pixels are added.
    sigma : (ny, nx) array, optional
        1-sigma uncertainty in the unit of ``image``; HDU 2, float32. Where it is not finite and positive
        the pixel is masked and gets the median of the others.
    psf, model : array, optional
        Appended in this order, as float32.
    header : Header, optional
        Of the cutout, with its WCS.
    ra, dec : float, optional
        Of the target in degrees, written as RA_TARG and DEC_TARG, and as RA and DEC where the header has none.
    keywords : iterable of (keyword, value, comment)
        Further keywords.
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
        The shapes of image, mask, sigma and model differ.
    NoGoodPixelsError
        No pixel is left to be fitted, or no pixel of ``sigma`` is usable.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = write_product(folder.name + "/cut.fits", np.ones((5, 5)), sigma=np.full((5, 5), 0.1))
    >>> with fits.open(path) as hdus:
    ...     [hdu.name for hdu in hdus]
    ['PRIMARY', 'MASK', 'SIGMA']
    >>> folder.cleanup()
    """
    image = np.array(image, dtype=np.float32)
    if image.ndim != 2 or image.size == 0:
        raise ImageShapeError(f"the image has shape {image.shape}; expected a two-dimensional cutout with pixels.")
    bad = ~np.isfinite(image)
    image[bad] = 0.0
    if mask is not None:
        check_same_shape(mask, image.shape, "mask", owner="the image")
        bad |= np.asarray(mask).astype(bool)
    if sigma is not None:
        check_same_shape(sigma, image.shape, "sigma", owner="the image")
        sigma = np.array(sigma, dtype=np.float32)
        unusable = ~(np.isfinite(sigma) & (sigma > 0))
        if unusable.all():
            raise NoGoodPixelsError(f"no pixel of sigma for {os.fspath(path)!r} is finite and positive.")
        sigma[unusable] = np.median(sigma[~unusable])
        bad |= unusable
    if bad.all():
        raise NoGoodPixelsError(
            f"nothing is left to be fitted in {os.fspath(path)!r}: every pixel is masked or not finite."
        )
    if model is not None:
        check_same_shape(model, image.shape, "model", owner="the image")

    primary = _product_header(header, ra, dec, keywords, history)
    primary["GPPLANES"] = ("mask" if sigma is None else "mask sigma", "planes of the image in the extensions")
    hdus = fits.HDUList([fits.PrimaryHDU(image, primary), fits.ImageHDU(bad.astype(np.uint8), name="MASK")])
    hdus[1].header.comments["EXTNAME"] = "1 marks pixels not to be fitted"
    for name, pixels in (("SIGMA", sigma), ("PSF", psf), ("MODEL", model)):
        if pixels is not None:
            hdus.append(fits.ImageHDU(np.asarray(pixels, dtype=np.float32), name=name))
            if name != "PSF" and "BUNIT" in primary:
                hdus[-1].header["BUNIT"] = primary["BUNIT"]
    with atomic_path(path, overwrite) as temporary:
        hdus.writeto(temporary, output_verify="silentfix+ignore")
    return Path(path).expanduser()


def _product_header(header, ra, dec, keywords, history) -> fits.Header:
    primary = fits.Header() if header is None else header.copy()
    for keyword in STRUCTURE:
        primary.remove(keyword, ignore_missing=True, remove_all=True)
    if "RADECSYS" in primary and "RADESYS" not in primary:
        primary.rename_keyword("RADECSYS", "RADESYS")  # the old spelling makes readers of the WCS warn
    for name, value, what in (("RA", ra, "right ascension"), ("DEC", dec, "declination")):
        if value is not None:
            primary[f"{name}_TARG"] = (float(value), f"[deg] {what} of the target")
            if name not in primary:
                primary[name] = (float(value), f"[deg] {what} of the target")
    for keyword, value, comment in keywords:
        if value is not None:
            primary[keyword] = (value, comment)
    primary["GPVERS"] = (__version__, "version of galprep-dask that wrote this file")
    for line in history:
        primary.add_history(line)
    return primary
