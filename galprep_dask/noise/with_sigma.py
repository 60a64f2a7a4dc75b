"""An image with its sigma plane: measured, checked, on request rescaled, and written down in its header."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xarray as xr

from galprep_dask.arrays import ImageLike, as_image, as_mask
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels, image_header, require, with_header
from galprep_dask.io.header import EXPTIME_KEYWORDS, GAIN_KEYWORDS
from galprep_dask.noise.calibration import SigmaCheck, check_sigma, measure_sky_std
from galprep_dask.noise.sigma import sigma_image, sky_exposure, unusable_pixels

__all__ = ["gain_and_exposure", "with_sigma"]


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
    if not (math.isfinite(correlation) and correlation > 0):
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
    checking = {"box_size": box_size, "sigma_clip": clip}
    scale = 1.0
    if rescale:
        sky = sigma_image(data, bad, fac1=0, **how)
        scale = check_sigma(data, sky, free, expected=None, **checking).ratio
    sigma = sigma_image(data, bad, gain=gain, fac1=fac1, fac2=(scale * correlation) ** 2, **how)
    check = check_sigma(data, sigma, free, expected=1 / correlation, **checking)
    check = replace(check, scale=scale) if rescale else check

    dims = image["data"].dims
    header = image_header(image)
    _record(header, check, None if maps else float(how["sky_std"]), correlation)
    return with_header(image.assign(sigma=(dims, sigma), mask=(dims, bad)), header)


def gain_and_exposure(image: xr.Dataset, gain, exptime, fac1: float = 1.0) -> tuple:
    """Give gain and exposure, those of the image where None is passed; no gain where no photon noise is wanted."""
    if gain is None and fac1 != 0:
        gain = require(image, "gain", GAIN_KEYWORDS)
    if exptime is None:
        exptime = 1.0 if fac1 == 0 else require(image, "exptime", EXPTIME_KEYWORDS)
    return gain, exptime


def _record(header, check: SigmaCheck, sky_std: float | None, correlation: float) -> None:
    for keyword in ("SIGCHK", "SIGCHKLO", "SIGCHKHI", "SIGCHKN", "SIGSCL", "SIGSKY", "SIGCOR"):
        header.remove(keyword, ignore_missing=True)  # of a sigma image made before
    header.update(check.to_header())
    if sky_std is not None:
        header["SIGSKY"] = (sky_std, "std of source-free pixels [unit of the image]")
    if correlation != 1:
        header["SIGCOR"] = (correlation, "factor of the sky's sigma: correlated noise")
