"""PSFEx's .psf files, read and written."""

from __future__ import annotations

import os

import numpy as np
from astropy.io import fits

from galprep_dask._version import __version__
from galprep_dask.errors import ImageFileError, ImageNotFoundError, ParameterError
from galprep_dask.io.atomic import atomic_path
from galprep_dask.psf.effective import effective_samples, from_effective
from galprep_dask.psf.field import Field, chebyshev_products
from galprep_dask.psf.model import PSFModel
from galprep_dask.psf.start import choose_oversampling

__all__ = ["read_psfex", "write_psfex"]


def _monomials(u, v, degree):
    """Products u^i v^j of total degree ``degree`` in the order of PSFEx: the power of u runs fastest."""
    return np.stack([u**i * v**j for j in range(degree + 1) for i in range(degree + 1 - j)], -1)


def read_psfex(path: str | os.PathLike, *, row: int = 0, oversampling: int | str = "auto") -> PSFModel:
    """
    Read a model of PSFEx.

    Parameters
    ----------
    path : str or path
        A ``.psf`` file of PSFEx, or a table that holds the keywords of one as columns, a detector a row, as surveys
        merge them.
    row : int
        Row of a merged table.
    oversampling : int or "auto"
        Fine pixels per data pixel of what is returned. "auto": as many as the file has where these are two or
        more to the pixel, and a whole number; else 1 for stars of 2.5 px FWHM or more.

    Returns
    -------
    PSFModel
        Positions are 0-based. Its hull is the rectangle of the positions that PSFEx has seen.

    Raises
    ------
    ImageNotFoundError
        There is no such file.
    ImageFileError
        It is no file of PSFEx, or its PSF depends on something else than the position.

    Notes
    -----
    Components are multiplied by powers of (x - POLZERO) / POLSCAL, x in FITS convention, and hold the PSF integrated
    over pixels at every PSF_SAMP pixels [1]_.

    References
    ----------
    .. [1] Bertin 2011, ADASS XX, ASP Conf. 442, 435; the PSFEx manual.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from galprep_dask.psf import PSFModel, read_psfex, write_psfex
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> model = PSFModel.from_image(np.exp(-(x**2 + y**2) / 6))
    >>> path = os.path.join(tempfile.mkdtemp(), "stars.psf")
    >>> write_psfex(model, path)
    >>> bool(abs(read_psfex(path).image - model.image).max() < 1e-7)
    True
    """
    if not os.path.exists(path):
        raise ImageNotFoundError(f"there is no file {os.fspath(path)!r}.")
    name = os.fspath(path)
    try:
        with fits.open(path, memmap=False) as hdus:
            table = next(hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU))
            columns = {column.lower(): column for column in table.columns.names}
            mask = np.asarray(table.data[columns["psf_mask"]][row], float)
            merged = "polzero1" in columns
            get = (lambda key: table.data[columns[key.lower()]][row]) if merged else (lambda key: table.header[key])
            axes = int(get("POLNAXIS"))
            degree = int(get("POLDEG1")) if axes else 0
            step = float(get("PSF_SAMP"))
            zero, scale = ([float(get(f"{key}{i}")) for i in range(1, axes + 1)] for key in ("POLZERO", "POLSCAL"))
            told = {key: float(get(key)) for key in ("PSF_FWHM", "CHI2")}
    except (OSError, KeyError, IndexError, StopIteration, TypeError, ValueError) as error:
        raise ImageFileError(f"{name!r} cannot be read as a PSF of PSFEx: {error}") from error
    if axes not in (0, 2):
        raise ImageFileError(f"{name!r}: its PSF depends on {axes} quantities; only on x and y, or on none, is read.")
    mask = mask.reshape(-1, *mask.shape[-2:])
    fwhm = told["PSF_FWHM"]
    if oversampling == "auto":
        own = max(round(1 / step), 1)
        whole = own > 1 and abs(own * step - 1) < 1e-6  # of such samples nothing is lost
        oversampling = own if whole or not fwhm > 0 else choose_oversampling(fwhm)
    size = int(mask.shape[-1] * step + 0.5 + 1e-6)  # 61 samples of half a pixel are those of 31 pixels
    size -= (size + 1) % 2
    fine = size * oversampling - (size * oversampling + 1) % 2
    psf = from_effective(mask, 1 / step, oversampling, fine)
    psf = psf / psf[0].sum()
    if not degree:
        return PSFModel(psf[:1], size, oversampling, parameters={"source": name})
    # FITS counts pixels from 1. A domain of +-1 scale makes Chebyshev's variable that of PSFEx.
    (x, y), (sx, sy) = np.array(zero) - 1, scale
    domain = np.array([x - sx, x + sx, y - sy, y + sy])
    half = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * scale
    u, v = np.meshgrid(*(np.linspace(-1, 1, 2 * degree + 3),) * 2)
    products = chebyshev_products(x + sx * u.ravel(), y + sy * v.ravel(), degree, domain)
    transform = np.linalg.lstsq(products, _monomials(u.ravel(), v.ravel(), degree), rcond=None)[0]
    field = Field(degree, domain, transform, half + (x, y))
    return PSFModel(psf, size, oversampling, field, parameters={"source": name})


def write_psfex(model: PSFModel, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """
    Write a model as PSFEx would, for the programs that read its files.

    Parameters
    ----------
    model : PSFModel
        From :func:`~galprep_dask.psf.fit_psf`, for example.
    path : str or path
        The FITS file.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    ParameterError, OutputExistsError, OutputError
        ``model`` is no PSFModel; the file exists; it cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from galprep_dask.psf import PSFModel, write_psfex
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> write_psfex(PSFModel.from_image(np.exp(-(x**2 + y**2) / 6)), os.path.join(tempfile.mkdtemp(), "stars.psf"))
    """
    if not isinstance(model, PSFModel):
        raise ParameterError(f"a PSFModel is expected, not {type(model).__name__}.")
    s, degree = model.oversampling, 0 if model.field is None else model.field.total
    samples = model.coefficients.shape[-1]
    mask = effective_samples(model.coefficients, s, samples, s) / s**2
    header = fits.Header()
    header["LOADED"], header["ACCEPTED"] = (len(model.stars),) * 2
    if len(model.stars):
        header["ACCEPTED"] = int(np.sum(model.stars["used"]))
    header["CHI2"] = float(model.validation.get("reduced_chi2", 0) or 0)
    header["POLNAXIS"] = 2 if degree else 0
    if degree:
        # As PSFEx has them: the middle and the width of the positions of the stars.
        low, high = model.field.hull.min(0), model.field.hull.max(0)
        zero, scale = (low + high) / 2, np.where(high > low, high - low, 1.0)
        # Orthonormal polynomials are sums of monomials; the coefficients of those are what PSFEx keeps.
        u, v = (g.ravel() for g in np.meshgrid(*(np.linspace(-0.5, 0.5, 2 * degree + 3),) * 2))
        ours = model.field.basis(zero[0] + scale[0] * u, zero[1] + scale[1] * v)
        change = np.linalg.lstsq(_monomials(u, v, degree), ours, rcond=None)[0]
        mask = np.tensordot(change, mask, 1)
        for i, name in ((1, "X_IMAGE"), (2, "Y_IMAGE")):
            header[f"POLGRP{i}"], header[f"POLNAME{i}"] = 1, name
            header[f"POLZERO{i}"], header[f"POLSCAL{i}"] = float(zero[i - 1]) + 1, float(scale[i - 1])
        header["POLNGRP"], header["POLDEG1"] = 1, degree
    header["PSF_FWHM"], header["PSF_SAMP"] = model.fwhm, 1 / s
    header["PSFNAXIS"] = 3
    for i, number in enumerate((samples, samples, len(mask)), 1):
        header[f"PSFAXIS{i}"] = number
    header["CREATOR"] = f"galprep-dask {__version__}"
    column = fits.Column(
        "PSF_MASK", f"{mask.size}E", dim=str((samples, samples, len(mask))), array=mask[None].astype(np.float32)
    )
    table = fits.BinTableHDU.from_columns([column], header=header, name="PSF_DATA")
    with atomic_path(path, overwrite) as temporary:
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(temporary)
