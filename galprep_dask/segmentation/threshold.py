"""The level above which a pixel belongs to a source."""

from __future__ import annotations

import numpy as np

from galprep_dask.arrays import ImageLike, as_image, check_same_shape, is_finite, like, take_off_unit
from galprep_dask.errors import ParameterError
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["detect_threshold"]


def detect_threshold(
    data: ImageLike,
    n_sigma: float,
    *,
    background: float | ImageLike | None = None,
    error: float | ImageLike | None = None,
    mask: ImageLike | None = None,
    sigma_clip: float | None = 3.0,
    maxiters: int | None = 10,
) -> float | ImageLike:
    """
    Level of ``n_sigma`` standard deviations of the sky above the sky, as ``photutils.segmentation.detect_threshold``.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified. If it is a Quantity, ``background`` and ``error`` are of the same unit.
    n_sigma : float
        Standard deviations above the sky.
    background : float or (ny, nx) array, optional
        Level of the sky; by default the clipped mean of ``data``. 0 where it is subtracted.
    error : float or (ny, nx) array, optional
        Standard deviation of the sky; by default the clipped one of ``data``.
    mask : (ny, nx) bool array, optional
        True marks pixels left out of these statistics; non-finite pixels always are.
    sigma_clip, maxiters : float, int
        As for :func:`galprep_dask.stats.sigma_clipped_stats`; ``sigma_clip=None`` clips nothing.

    Returns
    -------
    float, or (ny, nx) array of the kind of ``data``
        In the unit of ``data``, and a Quantity if ``data`` is one: a number where background and error are numbers,
        else an image. ``data`` are read only where one of both has to be found.

    Raises
    ------
    ImageShapeError
        Shapes differ.
    NoGoodPixelsError
        Every pixel is masked or not finite.
    ParameterError
        ``n_sigma`` is not finite; units differ.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(100, 1, (200, 200))
    >>> round(detect_threshold(image, 3.0), 1)
    103.0
    >>> detect_threshold(image, 3.0, background=100.0, error=np.full((200, 200), 2.0))[0, 0].item()
    106.0
    """
    if not is_finite(n_sigma):
        raise ParameterError(f"n_sigma={n_sigma!r}; expected a finite number.")
    for name, value in {"background": background, "error": error}.items():
        if np.ndim(value) == 0 and not (value is None or is_finite(getattr(value, "value", value))):
            raise ParameterError(f"{name}={value!r}; expected a finite number, an image, or None.")
    (data, background, error), unit = take_off_unit(data=data, background=background, error=error)
    level = _level(data, n_sigma, background, error, mask, sigma_clip, maxiters)
    return level if unit is None else level << unit


def _level(data, n_sigma, background, error, mask, sigma_clip, maxiters) -> float | ImageLike:
    if background is None or error is None:
        clip = {"maxiters": 0} if sigma_clip is None else {"sigma": sigma_clip, "maxiters": maxiters}
        mean, _, std = sigma_clipped_stats(data, mask, **clip)
        background = mean if background is None else background
        error = std if error is None else error
    if np.ndim(background) == 0 and np.ndim(error) == 0:
        return float(background + error * n_sigma)
    image = as_image(data)
    level, noise = (
        _number_or_image(value, name, image) for name, value in {"background": background, "error": error}.items()
    )
    return like(level + noise * n_sigma, data)


def _number_or_image(value, name, image):
    if np.ndim(value) == 0:
        return value
    check_same_shape(value, image.shape, name)
    return as_image(value, name, chunks=image.chunks)
