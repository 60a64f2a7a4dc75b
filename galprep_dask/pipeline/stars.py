"""The PSF of a band: of its stars, of a file, or none."""

from __future__ import annotations

import os
import warnings
from functools import partial

import dask.array as da
import numpy as np
from astropy.io import fits
from astropy.table import QTable

from galprep_dask.errors import GalprepError, GalprepWarning, ImageFileError, NoStarsError, TooFewStarsError
from galprep_dask.gaia.field import stars_in_image
from galprep_dask.image import WARNINGS_LOCK
from galprep_dask.io.files import local_path, open_hdus
from galprep_dask.pipeline.config import PSFSettings
from galprep_dask.pipeline.pixels import Subtracted
from galprep_dask.psf import PSFModel, fit_psf, read_psfex, select_stars, star_residuals, star_stamps
from galprep_dask.segmentation import Segmentation

__all__ = ["choose_stars", "describe_psf", "fit_to_stars", "read_psf", "star_counts"]

#: Stars that a PSF is fitted to at most: more make it no better than the model can be.
_MOST_STARS = 400
#: Stars whose pixels are kept for a page.
_SHOWN = 36


def choose_stars(
    pixels: Subtracted, labels: da.Array, catalog: QTable, *, sigma: da.Array, header, fwhm: float | None,
    settings: PSFSettings,
) -> QTable:  # fmt: skip
    """
    Choose the stars of a band; see :func:`galprep_dask.psf.select_stars`.

    Raises
    ------
    NoStarsError
        There is none.
    """
    stars = (
        partial(stars_in_image, catalog=settings.gaia_catalog, crossmatch=settings.crossmatch)
        if settings.crossmatch else None
    )  # fmt: skip
    return select_stars(
        pixels.data, Segmentation(labels), catalog, mask=pixels.bad, sigma=sigma, header=header, gaia=stars,
        crossmatch=settings.crossmatch, fwhm=fwhm, max_stars=_MOST_STARS,
    )  # fmt: skip


def star_counts(stars: QTable) -> list[dict]:
    """Give what each cut left, and how many it dropped."""
    cuts, before = [], len(stars)
    for name, left in stars.meta["counts"].items():
        cuts.append({"name": name, "dropped": before - int(left), "left": int(left)})
        before = int(left)
    return cuts


def fit_to_stars(
    pixels: Subtracted, labels: da.Array, stars: QTable, *, sigma: da.Array, gain: float, settings: PSFSettings
) -> tuple[PSFModel, dict[str, np.ndarray], list[str]]:
    """
    Fit the PSF of a band to its stars.

    Returns
    -------
    model : PSFModel
    residuals : dict of arrays
        What :func:`_residuals` gives.
    warned : list of str
        What the fit warned of.

    Raises
    ------
    NoStarsError, TooFewStarsError, NoGoodPixelsError
        There are no stars that a PSF can be fitted to.
    """
    cut = star_stamps(
        pixels.data, stars, settings.size, segmentation=Segmentation(labels), mask=pixels.bad, sigma=sigma
    )
    with WARNINGS_LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fit_psf(
            cut.stamps, mask=cut.mask, sigma=cut.sigma, gain=gain, x=cut.x, y=cut.y, degree=settings.degree,
            oversampling=settings.oversampling,
        )  # fmt: skip
    warned = sorted({str(one.message) for one in caught if issubclass(one.category, GalprepWarning)})
    return model, _residuals(model, cut), warned


def _residuals(model: PSFModel, cut) -> dict[str, np.ndarray]:
    """
    Give what the PSF leaves of its stars.

    Returns
    -------
    dict
        ``residual``: mean over the stars of data minus model, in units of the star's flux; ``radius``,
        ``profile_data``, ``profile_model``: mean profiles in rings; ``stamps``, ``stamps_residual``:
        the brightest stars and what is left of them, in units of their flux.
    """
    found = star_residuals(model, cut.stamps, mask=cut.mask, sigma=cut.sigma, x=cut.x, y=cut.y)
    flux, sky = (np.asarray(model.stars[name], float) for name in ("flux", "sky"))
    used = np.flatnonzero(found.used & (flux > 0))
    used = used[np.argsort(-flux[used], kind="stable")]
    unit, pulls = flux[used, None, None], found.pulls[used]
    left = pulls * cut.sigma[used] / unit
    stamps = np.where(np.isnan(pulls), np.nan, cut.stamps[used] - sky[used, None, None]) / unit
    good = np.isfinite(left)
    residual = np.where(good, left, 0).sum(0) / np.where(good.any(0), good.sum(0), np.nan)
    told = {
        "residual": residual, "radius": found.radius, "profile_data": found.profile,
        "profile_model": found.model_profile, "stamps": stamps[:_SHOWN], "stamps_residual": left[:_SHOWN],
    }  # fmt: skip
    return {name: values.astype(np.float32) for name, values in told.items()}


def read_psf(path: str) -> PSFModel:
    """
    Read a PSF: a model of ours, one of PSFEx, or an image with odd sides.

    Raises
    ------
    ImageNotFoundError, ImageFileError, ParameterError
        There is no such file, or it is none of these.
    """
    where = os.fspath(path)
    try:
        with open_hdus(where, {}) as hdus:
            names = {hdu.name for hdu in hdus}
            tables = any(isinstance(hdu, fits.BinTableHDU) and not hasattr(hdu, "compressed_data") for hdu in hdus)
            image = next((np.array(hdu.data, float) for hdu in hdus if hdu.is_image and hdu.header["NAXIS"] == 2), None)
    except FileNotFoundError as error:
        raise ImageFileError(f"there is no file {where!r} with a PSF.") from error
    except GalprepError:
        raise
    except Exception as error:  # astropy raises many kinds
        raise ImageFileError(f"{where!r} cannot be read as a PSF: {error}.") from error
    if "COEFFICIENTS" in names:
        return PSFModel.from_fits(local_path(where))
    if image is not None:
        if not (np.isfinite(image).all() and image.sum() > 0):
            raise ImageFileError(f"the PSF in {where!r} has pixels that are not finite, or no positive sum.")
        return PSFModel.from_image(image)
    if tables:
        return read_psfex(local_path(where))
    raise ImageFileError(f"{where!r} has neither a PSF model nor an image with two axes.")


def describe_psf(model: PSFModel, source: str, scale: float, warned: list[str]) -> dict:
    """Give what the record of a band says about its PSF; ``scale`` is arcsec per pixel."""
    told = {
        "source": source, "fwhm": model.fwhm * scale, "fwhm_pixels": model.fwhm,
        "ellipticity": model.ellipticity, "degree": model.degree, "size": model.size,
        "oversampling": model.oversampling, "converged": bool(model.converged), "warnings": warned,
    }  # fmt: skip
    if len(model.stars):
        used = np.asarray(model.stars["used"], bool)
        told |= {"n_stars": int(used.sum()), "chi2": float(np.nanmedian(np.asarray(model.stars["chi2"], float)[used]))}
    if model.validation:
        told |= {
            "n_reserved": model.validation.get("n_reserved"), "chi2_reserved": model.validation.get("reduced_chi2"),
            "validation": model.validation,
        }  # fmt: skip
    return told


#: Why there may be no PSF although one was wanted, which is no reason to end a run.
NO_PSF = (NoStarsError, TooFewStarsError)
