"""The PSF at one position of the field, as a file for a fitting code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from astropy.io import fits

from galprep_dask.io.atomic import atomic_path
from galprep_dask.psf.model_file import model_header

__all__ = ["write_psf_at"]


def write_psf_at(
    model, path: str | os.PathLike, x: float, y: float, *, ra: float | None = None, dec: float | None = None,
    overwrite: bool = False, header: fits.Header | None = None,
) -> Path:  # fmt: skip
    """
    Write what a PSF is at a position as the one image of a FITS file.

    Parameters
    ----------
    model : PSFModel
        From :func:`galprep_dask.psf.fit_psf`.
    path : str or path
        The file.
    x, y : float
        0-based pixel position in the image that the PSF was fitted in.
    ra, dec : float, optional
        The same in degrees, for the header.
    overwrite : bool
        Whether a file that exists may be replaced.
    header : Header, optional
        Further keywords, of the input for example.

    Returns
    -------
    Path
        The file: float32, of sum 1, centred on its middle pixel; its header says where the PSF was evaluated (PSFX and
        PSFY, RA and DEC), and what :meth:`galprep_dask.psf.PSFModel.to_fits` writes of the fit.

    Raises
    ------
    OutputExistsError, OutputError
        The file exists; it cannot be written.

    Warns
    -----
    OutsideFieldWarning
        The position lies outside the stars of the PSF.

    Examples
    --------
    >>> import tempfile
    >>> from galprep_dask.psf import PSFModel
    >>> gy, gx = np.mgrid[-7:8, -7:8]
    >>> model = PSFModel.from_image(np.exp(-(gx**2 + gy**2) / 4.5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fits.getdata(write_psf_at(model, f"{folder}/psf.fits", 10.0, 20.0)).shape
    (15, 15)
    """
    hdu = fits.PrimaryHDU(model.at(x, y).astype(np.float32), model_header(model))
    if header is not None:
        hdu.header.extend(header, update=True)
    hdu.header["PSFX"] = (x, "[pix] where the PSF was evaluated, from 0")
    hdu.header["PSFY"] = (y, "[pix] where the PSF was evaluated, from 0")
    if ra is not None:
        hdu.header["RA"] = (ra, "[deg] where the PSF was evaluated")
        hdu.header["DEC"] = (dec, "[deg] where the PSF was evaluated")
    with atomic_path(path, overwrite) as temporary:
        hdu.writeto(temporary)
    return Path(path).expanduser()
