"""An image with its sigma plane: measured, checked, on request rescaled, and written down in its header."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_finite
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels, image_header, require, with_header
from galprep_dask.io.fits_writer import image_hdus, write_hdus
from galprep_dask.io.header import EXPTIME_KEYWORDS, GAIN_KEYWORDS
from galprep_dask.noise.calibration import (
    SigmaCheck,
    check_of,
    check_sigma,
    measure_sky_std,
    pull_statistics,
    report_check,
)
from galprep_dask.noise.sigma import sigma_image, sky_exposure, unusable_pixels

__all__ = ["gain_and_exposure", "with_sigma", "write_with_sigma"]


def with_sigma(
    image: xr.Dataset,
    masked: ImageLike | None = None,
    *,
    sky_std: float | None = None,
    gain: float | None = None,
    exptime: float | ImageLike | None = None,
    weight: ImageLike | None = None,
    rms: ImageLike | None = None,
    fac1: float = 1.0,
    correlation: float = 1.0,
    rescale: bool = False,
    box_size: int = 256,
) -> xr.Dataset:
    """
    Give the image with a sigma plane that was compared with its noise, and says so in its header.

    Parameters
    ----------
    image : Dataset
        Sky-subtracted, from :func:`galprep_dask.open_image`. Not modified.
    masked : (ny, nx) bool array, optional
        Sources and bad pixels, as :func:`galprep_dask.sky.fit_sky_between_sources` and
        :func:`galprep_dask.sky.source_mask` give it. Without it clipping at 3 sigma has to do.
    sky_std : float, optional
        Standard deviation of source-free pixels; by default it is measured (:func:`measure_sky_std`), unless there is a
        map.
    gain, exptime : float, optional
        By default those of the image. ``exptime`` may be a map; no gain is needed where ``fac1`` is 0.
    weight, rms : (ny, nx) array, optional
        As for :func:`sigma_image`; by default the ``weight`` of the image if it has one.
    fac1 : float
        Factor of the variance of the sources; 0 for a map that contains it.
    correlation : float
        Factor from :func:`correlation_factor`, by which sigma of the sky is made larger. Pixels then scatter less
        than sigma, by that factor, and are expected to.
    rescale : bool
        Whether to rescale the sigma of the sky so that it agrees with the noise: for relative weights, or for an rms
        map that is off.
    box_size : int
        As for :func:`check_sigma`.

    Returns
    -------
    Dataset
        With a lazy ``sigma``, and in ``mask`` the pixels that are not finite or of which a map tells nothing. The
        header has SIGCHK, the standard deviation of source-free pixels over sigma; SIGCHKLO and SIGCHKHI, the lowest
        and the highest in boxes; SIGSKY where the noise of the sky is a number; SIGCOR and SIGSCL, the factor of
        correlated noise and that of a rescaling, where there is one.

    Raises
    ------
    MissingGainError, MissingExptimeError
        Neither the call nor the header has it.
    ParameterError, ImageShapeError, NoGoodPixelsError
        As for :func:`sigma_image` and :func:`check_sigma`.

    Warns
    -----
    SigmaWarning
        The ratio is below 0.8 or above 1.25 times what is expected.

    Notes
    -----
    Up to two passes over the image measure the noise, one checks sigma, and one more is for rescaling. The planes
    are lazy.

    Examples
    --------
    >>> from galprep_dask import make_image
    >>> rng = np.random.default_rng(0)
    >>> image = make_image(rng.normal(0, 3.0, (200, 200)), gain=2.0, exptime=100.0)
    >>> prepared = with_sigma(image)
    >>> round(prepared.galprep.header["SIGCHK"], 2)
    1.0
    >>> relative = image.assign(weight=(("y", "x"), np.ones((200, 200))))
    >>> prepared = with_sigma(relative, rescale=True)
    >>> round(prepared.galprep.header["SIGSCL"], 1), round(prepared.galprep.header["SIGCHK"], 2)
    (3.0, 1.0)
    """
    planned = _planned(
        image, masked, sky_std=sky_std, gain=gain, exptime=exptime, weight=weight, rms=rms, fac1=fac1,
        correlation=correlation, rescale=rescale, box_size=box_size,
    )  # fmt: skip
    check = check_sigma(planned.image["data"], planned.image["sigma"], planned.free, **planned.checking)
    header = image_header(planned.image)
    planned.record(check, header)
    return with_header(planned.image, header)


def write_with_sigma(
    image: xr.Dataset,
    path: str | os.PathLike,
    masked: ImageLike | None = None,
    *,
    overwrite: bool = False,
    history: Iterable[str] = (),
    **kwargs,
) -> SigmaCheck:
    """
    Write the image with a sigma plane that is checked in the same pass over the pixels.

    The file is that of :func:`with_sigma` and :func:`galprep_dask.write_image`, to the byte, and takes a pass less.

    Parameters
    ----------
    image : Dataset
        As for :func:`with_sigma`; all its planes are written.
    path : str or path
        The FITS file.
    masked : (ny, nx) bool array, optional
        As for :func:`with_sigma`.
    overwrite : bool
        Whether a file that exists may be replaced.
    history : iterable of str
        Lines for HISTORY.
    **kwargs
        As for :func:`with_sigma`.

    Returns
    -------
    SigmaCheck
        What is in the header of the file.

    Raises
    ------
    OutputExistsError, OutputError
        As for :func:`galprep_dask.write_image`.
    MissingGainError, MissingExptimeError, ParameterError, ImageShapeError, NoGoodPixelsError
        As for :func:`with_sigma`. Nothing is written.

    Warns
    -----
    SigmaWarning
        As for :func:`with_sigma`. The file is written all the same.

    Examples
    --------
    >>> import tempfile
    >>> from galprep_dask import make_image, open_image
    >>> image = make_image(np.random.default_rng(0).normal(0, 3.0, (200, 200)), gain=2.0, exptime=100.0)
    >>> folder = tempfile.TemporaryDirectory()
    >>> check = write_with_sigma(image, folder.name + "/image.fits")
    >>> prepared = open_image(folder.name + "/image.fits")
    >>> round(check.ratio, 2), prepared.galprep.header["SIGCHK"] == check.ratio
    (1.0, True)
    >>> folder.cleanup()
    """
    if os.fspath(path).rstrip("/").endswith(".zarr"):
        where = os.fspath(path)
        raise ParameterError(f"path={where!r}; expected a FITS file. Take with_sigma and write_image for Zarr.")
    planned = _planned(image, masked, **kwargs)
    clip, expected = planned.checking["sigma_clip"], planned.checking["expected"]
    statistics, box = pull_statistics(
        planned.image["data"], planned.image["sigma"], planned.free, planned.checking["box_size"], clip
    )
    checks = []

    def record(collected, header):
        checks.append(planned.record(check_of(collected, box, clip), header))

    # What is not known yet has its place in the header.
    header = image_header(planned.image)
    planned.record(SigmaCheck(1.0, 1.0, 1, np.ones((1, 1)), np.ones((1, 1), int), box), header)
    hdus = image_hdus(with_header(planned.image, header), history)
    write_hdus(hdus, path, overwrite=overwrite, along=(statistics, record))
    report_check(checks[0], expected)
    return checks[0]


class _Planned(NamedTuple):
    """
    An image with its lazy planes, and how they are to be checked.

    Attributes
    ----------
    image : Dataset
        With ``sigma`` and ``mask``.
    free : dask array
        True where no noise is measured.
    checking : dict
        ``box_size``, ``sigma_clip`` and ``expected`` of :func:`check_sigma`.
    sky_std, scale, correlation : float
        What the header tells of the noise; None where there is no such number.
    """

    image: xr.Dataset
    free: da.Array
    checking: dict
    sky_std: float | None
    scale: float | None
    correlation: float

    def record(self, check: SigmaCheck, header) -> SigmaCheck:
        """Write down in a header what was found; cards that are there keep their place."""
        check = check if self.scale is None else replace(check, scale=self.scale)
        header.update(check.to_header())
        if self.sky_std is not None:
            header["SIGSKY"] = (self.sky_std, "std of source-free pixels [unit of the image]")
        if self.correlation != 1:
            header["SIGCOR"] = (self.correlation, "factor of the sky's sigma: correlated noise")
        return check


def _planned(
    image, masked, *, sky_std=None, gain=None, exptime=None, weight=None, rms=None, fac1=1.0, correlation=1.0,
    rescale=False, box_size=256,
) -> _Planned:  # fmt: skip
    """Measure the noise, and make the planes of it."""
    if not (is_finite(correlation) and correlation > 0):
        raise ParameterError(f"correlation={correlation!r}; expected a positive number.")
    gain, exptime = gain_and_exposure(image, gain, exptime, fac1)
    weight = image.get("weight") if weight is None and rms is None else weight
    maps = {name: plane for name, plane in {"weight": weight, "rms": rms}.items() if plane is not None}
    exposures = {"exptime": exptime} if np.ndim(exptime) else {}

    data = as_image(image["data"])
    bad = bad_pixels(data, as_mask(image.get("mask"), data))
    if maps or exposures:
        unusable = as_image(unusable_pixels(**maps, **exposures), "mask", chunks=data.chunks)
        bad = bad | unusable
    free = bad if masked is None else bad | as_mask(masked, data, "masked")
    clip = 3.0 if masked is None else 5.0

    how = {"exptime": exptime, **maps}
    if not maps:
        how["sky_std"] = measure_sky_std(data, free, sigma_clip=clip) if sky_std is None else sky_std
        if exposures:
            how["sky_exptime"] = sky_exposure(exptime, free)
    elif sky_std is not None:
        how["sky_std"] = sky_std
    checking = {"box_size": box_size, "sigma_clip": clip, "expected": 1 / correlation}
    scale = 1.0
    if rescale:
        sky = sigma_image(data, bad, fac1=0, **how)
        scale = check_sigma(data, sky, free, **checking | {"expected": None}).ratio
    sigma = sigma_image(data, bad, gain=gain, fac1=fac1, fac2=(scale * correlation) ** 2, **how)
    header = image_header(image)
    for keyword in ("SIGCHK", "SIGCHKLO", "SIGCHKHI", "SIGCHKN", "SIGSCL", "SIGSKY", "SIGCOR"):
        header.remove(keyword, ignore_missing=True)  # of a sigma image made before
    dims = image["data"].dims
    image = with_header(image.assign(sigma=(dims, sigma), mask=(dims, bad)), header)
    return _Planned(
        image, free, checking, None if maps else float(how["sky_std"]), scale if rescale else None, correlation
    )


def gain_and_exposure(image: xr.Dataset, gain, exptime, fac1: float = 1.0) -> tuple:
    """Give gain and exposure, those of the image where None is passed; no gain where no photon noise is wanted."""
    if gain is None and fac1 != 0:
        gain = require(image, "gain", GAIN_KEYWORDS)
    if exptime is None:
        exptime = 1.0 if fac1 == 0 else require(image, "exptime", EXPTIME_KEYWORDS)
    return gain, exptime
