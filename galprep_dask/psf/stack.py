"""A plain stack of stars: aligned, weighted, averaged. What a fit is measured against."""

from __future__ import annotations

import numpy as np

from galprep_dask.errors import ImageShapeError, TooFewStarsError
from galprep_dask.psf._kernels.render import shifted
from galprep_dask.psf.gauge import centred, polished
from galprep_dask.psf.model import PSFModel
from galprep_dask.psf.start import starting_values

__all__ = ["stack_of", "stack_psf"]

#: Sigmas beyond which a pixel is left out of the average, and how often that is done.
CLIP, CLIPPINGS = 4.0, 2


def stack_of(data, good, variance, flux, dx, dy, sky) -> np.ndarray:
    """
    Weighted mean of stars shifted to the middle pixel and divided by their flux.

    Parameters
    ----------
    data, good, variance : (k, n, n) arrays
        Stars, pixels that count, variances.
    flux, dx, dy, sky : (k,) arrays
        What is known of each star.

    Returns
    -------
    (n, n) array
        Of sum 1.
    """
    light = np.where(good, data - sky[:, None, None], 0.0)
    covered = _between_pixels(good.astype(float), dx, dy)
    moved = shifted(light, -dx, -dy) / flux[:, None, None]
    noise = np.maximum(_between_pixels(variance, dx, dy), 1e-300)
    weights = np.zeros_like(noise)
    np.divide(flux[:, None, None] ** 2, noise, out=weights, where=covered > 0.99)  # elsewhere noise is next to nothing
    kept = weights.copy()
    for _ in range(CLIPPINGS):
        mean = (kept * moved).sum(0) / np.maximum(kept.sum(0), 1e-300)
        excess = np.abs(moved - mean) * np.sqrt(weights)
        # Interpolation errs by some percent of the star, so that much is never clipped.
        kept = np.where(excess > CLIP * np.sqrt(1 + weights * (0.1 * mean) ** 2), 0.0, weights)
    mean = (kept * moved).sum(0) / np.maximum(kept.sum(0), 1e-300)
    return mean / mean.sum()


def _between_pixels(images, dx, dy):
    """Values at (dx, dy) from every pixel, linearly between pixels; 0 beyond the rim."""
    for d, axis in ((dx, 2), (dy, 1)):
        whole, size = np.floor(d).astype(int), images.shape[axis]
        fraction = (d - whole)[:, None, None]
        padded = np.pad(images, [(0, 0) if i != axis else (0, 1) for i in range(3)])
        at = np.arange(size) + whole[:, None]
        low, high = (np.where((i >= 0) & (i < size), i, size) for i in (at, at + 1))
        low, high = (i[:, None, :] if axis == 2 else i[:, :, None] for i in (low, high))
        images = (1 - fraction) * np.take_along_axis(padded, low, axis) + fraction * np.take_along_axis(
            padded, high, axis
        )
    return images


def stack_psf(stamps, *, mask=None, sky_std: float | None = None, local_sky: bool = True) -> PSFModel:
    """
    Average stars after shifting them to the middle pixel: no fit, but no model either.

    Parameters
    ----------
    stamps : (k, n, n) array
        Stars near the middle of square stamps with an odd side. Not modified.
    mask : (k, n, n) bool array, optional
        True marks pixels left out; non-finite pixels always are.
    sky_std : float, optional
        Noise of the background; only its ratio between pixels would matter, so 1 is as good.
    local_sky : bool
        Take the median of the outer pixels off every stamp first.

    Returns
    -------
    PSFModel
        At the data's sampling, without a sigma.

    Raises
    ------
    ImageShapeError, TooFewStarsError
        Stamps are not square with an odd side; none of them holds light.

    Examples
    --------
    >>> import numpy as np
    >>> from galprep_dask.psf import stack_psf
    >>> iy, ix = np.mgrid[-10:11, -10:11]
    >>> stars = [np.exp(-((ix - a) ** 2 + (iy + a) ** 2) / 5.8) for a in (-0.4, 0.0, 0.3)]
    >>> stack_psf(np.array(stars)).image.shape
    (21, 21)
    """
    data = np.asarray(stamps, np.float64)
    if data.ndim != 3 or data.shape[1] != data.shape[2] or data.shape[1] % 2 == 0:
        raise ImageShapeError(f"stamps have shape {data.shape}: (k, n, n) with n odd is expected.")
    good = np.isfinite(data)
    if mask is not None:
        if np.shape(mask) != data.shape:
            raise ImageShapeError(f"mask has shape {np.shape(mask)}, but the stamps have {data.shape}.")
        good &= np.asarray(mask) == 0
    data = np.where(good, data, 0.0)
    sky, dx, dy, flux, _ = starting_values(data, good)
    kept = (flux > 0) & good.any((1, 2))
    if not kept.any():
        raise TooFewStarsError(f"none of the {len(data)} stamps holds light to be averaged.")
    variance = np.full(data.shape, 1.0 if sky_std is None else float(sky_std) ** 2)
    parts = (data, good, variance, flux, dx, dy, sky if local_sky else np.zeros(len(data)))
    stack = centred(stack_of(*(part[kept] for part in parts))[None], 1)[0]
    return PSFModel(polished(stack[0])[None], data.shape[-1])
