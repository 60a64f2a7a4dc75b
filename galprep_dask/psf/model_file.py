"""A PSF model as a FITS file: the image first, so that any fitting code can read it."""

from __future__ import annotations

import json
import os

import numpy as np
from astropy.io import fits
from astropy.table import Table

from galprep_dask._version import __version__
from galprep_dask.errors import ImageFileError, ImageNotFoundError
from galprep_dask.io.atomic import atomic_path
from galprep_dask.psf.field import Field

__all__ = ["model_header", "read_model", "write_model"]

#: Keyword and comment of every number of a validation.
VALIDATION = {
    "n_fitted": ("NFITTED", "stars fitted when the others were predicted"),
    "n_reserved": ("NRESERV", "stars that were predicted"),
    "n_folds": ("NFOLDS", "times that stars were reserved"),
    "reduced_chi2": ("CHI2RES", "median reduced chi2 of reserved stars"),
    "size_residual": ("DTRES", "mean (T observed - predicted) / T"),
    "size_error": ("DTERR", "its error"),
    "e1_residual": ("DE1RES", "mean e1 observed - predicted"),
    "e1_error": ("DE1ERR", "its error"),
    "e2_residual": ("DE2RES", "mean e2 observed - predicted"),
    "e2_error": ("DE2ERR", "its error"),
    "stack_reduced_chi2": ("CHI2STK", "the same of a plain stack"),
    "stack_size_residual": ("DTSTK", "the same of a plain stack"),
    "stack_size_error": ("DTSTKER", "its error"),
    "stack_e1_residual": ("DE1STK", "the same of a plain stack"),
    "stack_e1_error": ("DE1STKER", "its error"),
    "stack_e2_residual": ("DE2STK", "the same of a plain stack"),
    "stack_e2_error": ("DE2STKER", "its error"),
}


def model_header(model) -> fits.Header:
    """Give the keywords that say what a PSF is and how well it predicts stars."""
    header = fits.Header()
    header["OVERSAMP"] = (model.oversampling, "fine pixels per data pixel of the model")
    header["PSFDEG"] = (model.degree, "degree over the field")
    header["PSFFWHM"] = (model.fwhm, "[pix] FWHM, pixel included")
    header["CONVERGD"] = (bool(model.converged), "whether the fit settled")
    header["NSTARS"] = (int(np.sum(model.stars["used"])) if len(model.stars) else 0, "stars of the PSF")
    for name, (keyword, comment) in VALIDATION.items():
        value = model.validation.get(name)
        if value is not None and np.isfinite(value):
            header[keyword] = (value, comment)
        elif value is not None:
            header[keyword] = (None, comment)
    if model.loss_history:
        header["LOSS"] = (model.loss_history[-1], "last loss")
    for name, value in model.parameters.items():
        header.add_history(f"fit_psf {name}={value!r}")
    header["CREATOR"] = f"galprep-dask {__version__}"
    return header


def write_model(model, path: str | os.PathLike, *, overwrite: bool = False, header=None) -> None:
    """Write a model; the file appears whole or not at all."""
    first = fits.PrimaryHDU(model.image.astype(np.float32))
    if header is not None:
        first.header.extend(header, update=True)
    first.header.update(model_header(model))
    stars = fits.BinTableHDU(model.stars if len(model.stars) else Table({"dx": np.zeros(0)}), name="STARS")
    hdus = [first, stars, fits.ImageHDU(model.sigma.astype(np.float32), name="SIGMA")]
    coefficients = fits.ImageHDU(model.coefficients, name="COEFFICIENTS")
    coefficients.header["OVERSAMP"], coefficients.header["PSFSIZE"] = model.oversampling, model.size
    hdus.append(coefficients)
    if model.variance is not None:
        hdus.append(fits.ImageHDU(model.variance.astype(np.float32), name="VARIANCE"))
        hdus.append(fits.ImageHDU(model.image_variance.astype(np.float32), name="IMAGEVAR"))
    if model.field is not None:
        hdus.append(fits.ImageHDU(model.field.transform, name="TRANSFORM"))
        hull = fits.ImageHDU(model.field.hull, name="HULL")
        hull.header["DEGREE"] = model.field.degree
        for name, value in zip(("X0", "X1", "Y0", "Y1"), model.field.domain, strict=True):
            hull.header[f"DOMAIN{name}"] = value
        hdus.append(hull)
    told = json.dumps({"parameters": model.parameters, "validation": model.validation, "loss": model.loss_history})
    hdus.append(fits.BinTableHDU(Table({"json": [told]}), name="FIT"))
    with atomic_path(path, overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary)


def read_model(path: str | os.PathLike):
    """Read a model that :func:`write_model` wrote."""
    from galprep_dask.psf.model import PSFModel

    if not os.path.exists(path):
        raise ImageNotFoundError(f"there is no file {os.fspath(path)!r}.")
    try:
        with fits.open(path, memmap=False) as hdus:
            names = {hdu.name for hdu in hdus}
            if not {"COEFFICIENTS", "FIT"} <= names:
                raise ImageFileError(
                    f"{os.fspath(path)!r} is no PSF model of this package: it has no COEFFICIENTS. "
                    "Read an image with PSFModel.from_image."
                )
            get = lambda name: np.asarray(hdus[name].data, np.float64) if name in names else None  # noqa: E731
            told = json.loads(Table.read(hdus["FIT"])["json"][0])
            stars = Table.read(hdus["STARS"])
            stars.meta.clear()
            for name in stars.colnames:
                if stars[name].dtype.kind == "S":
                    stars[name] = stars[name].astype(str)
            head = hdus["COEFFICIENTS"].header
            field = None
            if "HULL" in names:
                header = hdus["HULL"].header
                domain = np.array([header[f"DOMAIN{name}"] for name in ("X0", "X1", "Y0", "Y1")])
                field = Field(int(header["DEGREE"]), domain, get("TRANSFORM"), get("HULL"))
            return PSFModel(
                get("COEFFICIENTS"), int(head["PSFSIZE"]), int(head["OVERSAMP"]), field, get("VARIANCE"),
                get("IMAGEVAR"), stars if "used" in stars.colnames else Table(), told["loss"],
                bool(hdus[0].header["CONVERGD"]), told["validation"], told["parameters"],
            )  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ImageFileError):
            raise
        raise ImageFileError(f"{os.fspath(path)!r} cannot be read as a PSF model: {error}") from error
