"""The sigma image: photon noise of the sources on top of the noise of the sky."""

from __future__ import annotations

import math
from functools import partial

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape, like
from galprep_dask.blockwise import merge_blocks_now
from galprep_dask.errors import ParameterError
from galprep_dask.image import float_dtype, no_good_pixels
from galprep_dask.noise._kernels.exposure import add_inverses, harmonic_mean, inverses_of_block
from galprep_dask.noise._kernels.sigma import is_usable, sigma_of_block
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["sigma_image", "sky_exposure", "unusable_pixels"]


def sigma_image(
    data: ImageLike,
    mask: ImageLike | None = None,
    *,
    sky_std: float | None = None,
    gain: float | None = None,
    exptime: float | ImageLike = 1.0,
    weight: ImageLike | None = None,
    rms: ImageLike | None = None,
    sky_exptime: float | None = None,
    model: ImageLike | None = None,
    fac1: float = 1.0,
    fac2: float = 1.0,
) -> ImageLike:
    r"""
    1-sigma uncertainty of every pixel of a sky-subtracted image.

    .. math:: \sigma = \sqrt{f_1 \max(d, 0) / (g\,t) + f_2\,\sigma_\mathrm{sky}^2}

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image: in counts per second with ``exptime`` the exposure, or in counts with
        ``exptime=1``. Not modified.
    mask : (ny, nx) bool array, optional
        Bad pixels; whatever is stored there, in the image and in the maps, their sigma is ``sqrt(fac2) * sky_std``.
        Not the sources: they would lose their photon noise.
    sky_std : float
        Standard deviation of source-free pixels, in the unit of ``data``; see :func:`measure_sky_std`. With
        ``weight`` or ``rms`` it is that of pixels of which the map tells nothing, by default the median of the map,
        which is then computed at once.
    gain : float
        Electrons per count; for an image in a physical unit, per that unit (:func:`effective_gain`). Not needed
        where ``fac1`` is 0.
    exptime : float or (ny, nx) array
        Exposure in s. Pixels of a map that are not finite and positive have no source term.
    weight : (ny, nx) array, optional
        Inverse variance of the sky, in 1 / unit of ``data`` squared, which replaces ``sky_std``. A map of relative
        weights is put on that scale by ``fac2``; :func:`with_sigma` does so with ``rescale=True``.
    rms : (ny, nx) array, optional
        Standard deviation of the sky, which replaces ``sky_std``, such as
        ``fit_mesh_sky(...).rms_image()``. Where a map contains the photon noise of sources already, pass ``fac1=0``.
    sky_exptime : float, optional
        With a map of exposures and no other: the exposure at which the noise of the sky is ``sky_std``. By default
        that at which it was measured if it was measured on the whole image, :func:`sky_exposure`, which is computed at
        once.
    model : (ny, nx) array, optional
        Light of the sources without noise, in the unit of ``data``: a model of them, or the image smoothed. Their
        photon noise is then taken from it, in place of ``data``.
    fac1, fac2 : float
        Factors of the variances of source and sky; ``fac2`` above 1 makes up for the noise that
        resampling has correlated away (the square of :func:`correlation_factor`).

    Returns
    -------
    (ny, nx) array, of the kind given
        In the unit of ``data``, float32 or float64 as it is; finite and positive everywhere, under NaN too.

    Raises
    ------
    ParameterError
        ``sky_std``, ``gain``, ``sky_exptime`` or a scalar ``exptime`` is missing or not positive and finite; a factor
        is negative, or the sky's is zero; there is a map of weights and one of rms.
    ImageShapeError
        A map has another shape.
    NoGoodPixelsError
        No pixel of a map is finite and positive.

    See Also
    --------
    unusable_pixels : what to mask where a map tells nothing.
    check_sigma : whether the result agrees with the noise.

    Notes
    -----
    With a map of exposures the variance of the sky goes with one over the exposure, as that of counts per second does
    where photons of the sky make the noise. Where that is not so, pass the noise as ``rms``.

    Unless there is a ``model``, the source term is taken from the pixels themselves. Positive noise is then taken for
    light, and negative noise is not: where the noise of the sky is ``n`` electrons, source-free pixels over sigma have
    a standard deviation of about 1 - 0.4 / ``n``.

    Examples
    --------
    >>> sigma_image(np.array([[0.0, 9.0], [np.nan, -5.0]]), sky_std=4.0, gain=1.0)
    array([[4., 5.],
           [4., 4.]])
    >>> sigma_image(np.zeros((1, 3)), sky_std=4.0, gain=1.0, weight=np.array([[0.25, 0.0, np.nan]]))
    array([[2., 4., 4.]])
    """
    image = as_image(data)
    image = image.astype(float_dtype(image.dtype))
    _check_factors(fac1, fac2)
    gain = _check_gain(gain, fac1)
    planes = {"mask": as_mask(mask, image), "exptime": _as_exposure(exptime, image), **_as_sky_map(weight, rms, image)}
    planes = {name: plane for name, plane in planes.items() if plane is not None}
    sky_map = next((name for name in ("weight", "rms") if name in planes), None)
    if np.ndim(sky_std) != 0:
        raise ParameterError(f"sky_std has shape {np.shape(sky_std)}; expected a number. Pass a map as rms=.")
    if sky_std is not None:
        _check_positive("sky_std", sky_std)
    elif sky_map is None:
        raise ParameterError("sky_std=None; expected the standard deviation of source-free pixels, or weight= or rms=.")
    else:
        sky_std = _median_rms(planes[sky_map], planes.get("mask"), sky_map)
    if sky_exptime is not None:
        _check_positive("sky_exptime", sky_exptime)
    elif "exptime" in planes and sky_map is None:
        sky_exptime = _mean_exposure(planes["exptime"], planes.get("mask"))
        sky_exptime = sky_exptime if math.isfinite(sky_exptime) else 1.0  # no exposure is used
    light = image if model is None else _as_map(model, "model", image)
    sigma = da.map_blocks(
        partial(
            sigma_of_block, names=tuple(planes), dtype=image.dtype, gain=gain,
            exptime=1.0 if "exptime" in planes else float(exptime),
            sky_variance=float(sky_std) ** 2, sky_exptime=1.0 if sky_exptime is None else float(sky_exptime),
            fac1=float(fac1), fac2=float(fac2),
        ),
        light, *planes.values(), dtype=image.dtype, meta=np.empty((0, 0), image.dtype),
    )  # fmt: skip
    return like(sigma, data)


def unusable_pixels(
    mask: ImageLike | None = None,
    *,
    exptime: ImageLike | None = None,
    weight: ImageLike | None = None,
    rms: ImageLike | None = None,
) -> ImageLike:
    """
    Mark the pixels of which a map tells nothing: their sigma is finite, but they are not to be fitted.

    Parameters
    ----------
    mask : (ny, nx) bool array, optional
        Further pixels to mark.
    exptime, weight, rms : (ny, nx) array, optional
        As for :func:`sigma_image`, one of them at least. What is not finite and positive is marked.

    Returns
    -------
    (ny, nx) bool array, of the kind of the first that is given

    Raises
    ------
    ParameterError
        None is given.
    ImageShapeError
        Their shapes differ.

    Examples
    --------
    >>> unusable_pixels(weight=np.array([[0.25, 0.0, -1.0, np.nan]]))
    array([[False,  True,  True,  True]])
    """
    given = {"mask": mask, "exptime": exptime, "weight": weight, "rms": rms}
    given = {name: plane for name, plane in given.items() if plane is not None and np.ndim(plane) > 0}
    if not given:
        raise ParameterError("no map is given; expected mask=, exptime=, weight= or rms=.")
    first = next(iter(given))
    shape, chunks = np.shape(given[first]), None
    marked = []
    for name, plane in given.items():
        check_same_shape(plane, shape, name, owner=first)
        plane = as_image(plane, name, chunks=chunks)
        chunks = plane.chunks
        marked.append(as_mask(plane, plane) if name == "mask" else ~plane.map_blocks(is_usable, dtype=bool))
    return like(da.map_blocks(_any_of, *marked, dtype=bool), given[first])


def sky_exposure(exptime: ImageLike, mask: ImageLike | None = None) -> float:
    """
    Exposure at which the noise of the sky is what it is on average, in the root mean square.

    Parameters
    ----------
    exptime : (ny, nx) array, NumPy, dask or xarray
        Exposures in s. What is not finite and positive is left out.
    mask : (ny, nx) bool array, optional
        Where the noise is not measured: sources and bad pixels.

    Returns
    -------
    float
        The harmonic mean: variances go with one over the exposure. The same to the bit for all chunks.

    Raises
    ------
    NoGoodPixelsError
        No exposure is left.
    ImageShapeError
        The mask has another shape.

    Examples
    --------
    >>> sky_exposure(np.array([[100.0, 300.0, 0.0]]))
    150.0
    """
    exptime = as_image(exptime, "exptime")
    exptime = exptime.astype(float_dtype(exptime.dtype))
    exposure = _mean_exposure(exptime, as_mask(mask, exptime))
    if not math.isfinite(exposure):
        raise no_good_pixels("average the exposures", where="exptime")
    return exposure


def _mean_exposure(exptime: da.Array, mask: da.Array | None) -> float:
    planes = (exptime,) if mask is None else (exptime, mask)
    return harmonic_mean(merge_blocks_now(inverses_of_block, add_inverses, *planes))


def _median_rms(sky_map: da.Array, mask: da.Array | None, name: str) -> float:
    """Give the median of the usable rms that a map tells."""
    usable = sky_map.map_blocks(is_usable, dtype=bool)
    bad = ~usable if mask is None else ~usable | mask
    if bool(bad.all().compute()):
        raise no_good_pixels("take the noise of the sky from a map", where=f"{name} (usable is what is positive)")
    _, median, _ = sigma_clipped_stats(sky_map, bad, maxiters=0)
    return 1 / math.sqrt(median) if name == "weight" else median


def _as_sky_map(weight, rms, image: da.Array) -> dict[str, da.Array]:
    if weight is not None and rms is not None:
        raise ParameterError("weight and rms are both given; expected one of them: either is the noise of the sky.")
    for name, plane in (("weight", weight), ("rms", rms)):
        if plane is not None:
            return {name: _as_map(plane, name, image)}
    return {}


def _as_exposure(exptime, image: da.Array) -> da.Array | None:
    """Give a map of exposures, or None for a number."""
    if np.ndim(exptime) == 0:
        _check_positive("exptime", exptime)
        return None
    return _as_map(exptime, "exptime", image)


def _as_map(plane, name: str, image: da.Array) -> da.Array:
    check_same_shape(plane, image.shape, name)
    plane = as_image(plane, name, chunks=image.chunks)
    return plane.astype(float_dtype(plane.dtype))


def _check_gain(gain, fac1: float) -> float:
    if gain is None:
        if fac1 == 0:
            return 1.0  # there is no term that it is in
        raise ParameterError("gain=None; expected electrons per count, or fac1=0 for no photon noise of the sources.")
    _check_positive("gain", gain)
    return float(gain)


def _check_factors(fac1, fac2) -> None:
    _check_positive("fac2", fac2)
    if not (_is_number(fac1) and fac1 >= 0):
        raise ParameterError(f"fac1={fac1!r}; expected zero or a positive number.")


def _check_positive(name: str, value) -> None:
    if not (_is_number(value) and value > 0):
        raise ParameterError(f"{name}={value!r}; expected a positive number.")


def _is_number(value) -> bool:
    try:
        return np.ndim(value) == 0 and math.isfinite(value)
    except TypeError:
        return False


def _any_of(*blocks):
    return np.logical_or.reduce(blocks)
