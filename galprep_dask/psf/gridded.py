"""Export to photutils: a grid of effective PSFs, in memory or as an STDPSF file."""

from __future__ import annotations

import os
import warnings

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData

from galprep_dask._version import __version__
from galprep_dask.errors import OutsideFieldWarning, ParameterError
from galprep_dask.io.atomic import atomic_path
from galprep_dask.psf.effective import effective_samples
from galprep_dask.psf.model import PSFModel

__all__ = ["to_gridded", "write_stdpsf"]

#: Samples per data pixel of an STDPSF file: no keyword says it, readers take it for granted.
STDPSF_SAMPLES = 4


def _grid_of(model, shape, n_grid):
    if not isinstance(model, PSFModel):
        raise ParameterError(f"a PSFModel is expected, not {type(model).__name__}.")
    if n_grid < 2:
        raise ParameterError(f"n_grid={n_grid!r}: at least 2 positions along each side.")
    if shape is None and model.field is not None:
        (x0, y0), (x1, y1) = model.field.hull.min(0), model.field.hull.max(0)
    elif shape is None:
        raise ParameterError("give the shape of the image, (ny, nx): this PSF does not know its field.")
    else:
        x0, y0, x1, y1 = 0, 0, shape[1] - 1, shape[0] - 1
    return np.linspace(x0, x1, n_grid), np.linspace(y0, y1, n_grid)


def _samples(model, xs, ys, per_pixel):
    side = model.size * per_pixel
    side -= (side + 1) % 2
    with warnings.catch_warnings():  # corners of the grid lie outside the hull; the clamped PSF is what belongs there
        warnings.simplefilter("ignore", OutsideFieldWarning)
        psfs = np.array([model.at(x, y, oversampled=True) for y in ys for x in xs])
    return effective_samples(psfs, model.oversampling, side, per_pixel)


def to_gridded(
    model: PSFModel, shape: tuple[int, int] | None = None, *, n_grid: int = 5, oversampling: int | None = None
):
    """
    Make a GriddedPSFModel of photutils.

    Parameters
    ----------
    model : PSFModel
        From :func:`~galprep_dask.psf.fit_psf`, for example.
    shape : (ny, nx), optional
        Image that the grid covers; by default it covers the stars' hull.
    n_grid : int
        Positions along each side.
    oversampling : int, optional
        Samples per data pixel; at least 4 by default, since photutils interpolates with splines.

    Returns
    -------
    photutils.psf.GriddedPSFModel

    Raises
    ------
    ParameterError
        ``model`` is no PSFModel; the shape is needed; or a number makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> from galprep_dask.psf import PSFModel, to_gridded
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> grid = to_gridded(PSFModel.from_image(np.exp(-(x**2 + y**2) / 6)), shape=(100, 100), n_grid=2)
    >>> grid.data.shape
    (4, 99, 99)
    """
    from photutils.psf import GriddedPSFModel

    per_pixel = max(4, model.oversampling) if oversampling is None else oversampling
    xs, ys = _grid_of(model, shape, n_grid)
    positions = [(float(x), float(y)) for y in ys for x in xs]
    meta = {"grid_xypos": positions, "oversampling": per_pixel}
    return GriddedPSFModel(NDData(_samples(model, xs, ys, per_pixel), meta=meta))


def write_stdpsf(
    model: PSFModel, path: str | os.PathLike, shape: tuple[int, int] | None = None, *, n_grid: int = 5,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """
    Write a grid of PSFs in STScI's STDPSF format, which photutils reads.

    Parameters
    ----------
    model : PSFModel
        From :func:`~galprep_dask.psf.fit_psf`, for example.
    path : str or path
        The FITS file.
    shape : (ny, nx), optional
        Image that the grid covers; by default it covers the stars' hull.
    n_grid : int
        Positions along each side; rounded to whole pixels in the file.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    ParameterError, OutputExistsError, OutputError
        As for :func:`to_gridded`; the file exists; it cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from galprep_dask.psf import PSFModel, write_stdpsf
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> model = PSFModel.from_image(np.exp(-(x**2 + y**2) / 6))
    >>> write_stdpsf(model, os.path.join(tempfile.mkdtemp(), "grid.fits"), (100, 100), n_grid=2)
    """
    xs, ys = (np.rint(axis) for axis in _grid_of(model, shape, n_grid))
    data = _samples(model, xs, ys, STDPSF_SAMPLES)
    header = fits.Header()
    header["NXPSFS"], header["NYPSFS"] = len(xs), len(ys)
    for key, axis in (("IPSFX", xs), ("JPSFY", ys)):
        for i, value in enumerate(axis, 1):
            header[f"{key}{i:02d}"] = int(value) + 1
    header["CREATOR"] = f"galprep-dask {__version__}"
    with atomic_path(path, overwrite) as temporary:
        fits.PrimaryHDU(data.astype(np.float32), header).writeto(temporary)
