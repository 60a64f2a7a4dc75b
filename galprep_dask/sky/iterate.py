"""The mask needs the sky, and the sky needs the mask: from one to the other, and back."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, like
from galprep_dask.blockwise import keep_mask
from galprep_dask.errors import LittleSkyWarning, ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.sky.source_mask import check_search, count_pixels, masked_pixels
from galprep_dask.sky.subtract import subtract_sky

__all__ = ["fit_sky_between_sources"]

_log = logging.getLogger("galprep_dask.sky")

#: Share of the pixels whose change ends the iteration.
_STABLE = 5e-3
#: Rounds after which nothing leaves the mask any more: what is just significant could go in and out for ever.
_GROWING_ONLY = 4
#: Share of the good pixels below which what is left is hardly the sky.
_LITTLE_SKY = 0.15


def fit_sky_between_sources(
    data: ImageLike,
    mask: ImageLike | None = None,
    *,
    fit: Callable,
    fwhm: float,
    n_sigma: float = 3.0,
    n_pixels: int = 5,
    connectivity: int = 8,
    max_grow_size: int = 100,
    addgrow: float = 0,
    faint_scales: tuple[int, ...] = (1, 4, 8),
    margin: float = 2.0,
    rounds: int = 8,
) -> tuple[object, ImageLike]:
    """
    Fit the sky to the pixels between the sources, which are found on the image minus the sky.

    A first sky is fitted to all good pixels, with nothing but clipping against the sources. On what it leaves
    sources are masked, and the sky is fitted anew; and so on, until mask and sky no longer change. Detection and
    growth on an image whose sky is not flat would take the brighter side of the sky for sources, and miss those on
    the other side; and as long as the sky is too high, the faint light around galaxies is not seen.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks bad pixels; non-finite ones always are.
    fit : callable
        ``fit(data, mask)`` gives a sky model, :func:`fit_median_sky` for example.
    fwhm, n_sigma, n_pixels, connectivity : float, float, int, int
        As for :func:`source_mask`.
    max_grow_size, addgrow : int, float
        As for :func:`source_mask`.
    faint_scales, margin : tuple of int, float
        As for :func:`source_mask`. Light that no single pixel shows is what biases a sky: by default it is looked
        for, and every mask is widened by twice its own radius, less from the round on in which that would leave too
        little sky. ``faint_scales=()`` masks what is detected and its growth.
    rounds : int
        Times at most that sources are masked and the sky is fitted again. It ends when fewer than one pixel in two
        hundred goes into the mask or out of it.

    Returns
    -------
    sky
        The model that ``fit`` gave last.
    masked : (ny, nx) bool array, of the kind given
        Sources, their surroundings and bad pixels: what it was not fitted to.

    Raises
    ------
    NoGoodPixelsError, TooFewPixelsError, ParameterError
        Too few pixels hold sky; a parameter makes no sense.

    Warns
    -----
    LittleSkyWarning
        Less than 15 % of the good pixels were left to fit the sky to.

    Examples
    --------
    >>> import numpy as np
    >>> from galprep_dask.sky import fit_polynomial_sky
    >>> image = np.random.default_rng(0).normal(0, 1, (150, 150)) + np.linspace(0, 90, 150)
    >>> image[60:70, 20:30] += 100.0
    >>> sky, masked = fit_sky_between_sources(
    ...     image, fit=lambda data, mask: fit_polynomial_sky(data, mask, 1), fwhm=2.5)
    >>> bool(abs(sky.evaluate().compute()[0, -1] - 90) < 0.2), bool(masked.mean() < 0.4)
    (True, True)
    """
    if rounds < 1:
        raise ParameterError(f"rounds={rounds!r}; expected 1 or more.")
    check_search(faint_scales, margin, n_sigma)
    image = as_image(data)
    bad = keep_mask(bad_pixels(image, as_mask(mask, image)))
    sky, known = fit(image, bad), None
    for n in range(rounds):
        flat = subtract_sky(image, sky)
        flat = da.where(bad, flat.dtype.type(np.nan), flat)  # in one task with the pixels, for all that looks at them
        masked, margin = masked_pixels(
            flat, None, bad, known, 0.0, fwhm=fwhm, n_sigma=n_sigma, n_pixels=n_pixels, connectivity=connectivity,
            max_grow_size=max_grow_size, addgrow=addgrow, faint_scales=faint_scales, margin=margin,
        )  # fmt: skip
        if n >= _GROWING_ONLY:
            masked = keep_mask(masked | known)
        sky = fit(image, masked)
        n_masked, n_bad, n_changed = count_pixels(masked, bad, masked if known is None else masked ^ known)
        changed = n_changed / image.size
        _log.info("round %d: %.2f %% of the pixels changed, sky rms %.6g", n + 1, 100 * changed, sky.rms)
        if changed < _STABLE:
            break
        known = masked
    left, good = (1 - n / image.size for n in (n_masked, n_bad))
    if left < _LITTLE_SKY * good:
        warnings.warn(
            f"the sky was fitted to {100 * left:.1f} % of the pixels, the others are masked as sources: a sky that the "
            "model cannot follow looks like sources, too. Try another model, smaller boxes, or a higher n_sigma.",
            LittleSkyWarning, stacklevel=2,
        )  # fmt: skip
    return sky, like(masked, data)
