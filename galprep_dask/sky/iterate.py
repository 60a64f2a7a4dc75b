"""The mask needs the sky, and the sky needs the mask: from one to the other, and back."""

from __future__ import annotations

from collections.abc import Callable

from galprep_dask.arrays import ImageLike, as_image, as_mask, like
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels
from galprep_dask.sky.source_mask import source_mask

__all__ = ["fit_sky_between_sources"]


def fit_sky_between_sources(
    data: ImageLike, mask: ImageLike | None = None, *, fit: Callable, rounds: int = 2, **detection
) -> tuple[object, ImageLike]:
    """
    Fit the sky to the pixels between the sources, which are found on the image minus the sky.

    A first sky is fitted to all good pixels, with nothing but clipping against the sources. On what it leaves
    sources are masked, and the sky is fitted anew; and so on. Detection and growth on an image whose sky is
    not flat would take the brighter side of the sky for sources, and miss those on the other side.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks bad pixels; non-finite ones always are.
    fit : callable
        ``fit(data, mask)`` gives a sky model, :func:`fit_median_sky` for example.
    rounds : int
        Times that sources are masked and the sky is fitted again.
    **detection
        For :func:`source_mask`: ``fwhm``, ``n_sigma``, ``n_pixels``, ``max_grow_size``, ``addgrow`` ...

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

    Examples
    --------
    >>> import numpy as np
    >>> from galprep_dask.sky import fit_polynomial_sky
    >>> image = np.random.default_rng(0).normal(0, 1, (150, 150)) + np.linspace(0, 90, 150)
    >>> image[60:70, 20:30] += 100.0
    >>> sky, masked = fit_sky_between_sources(
    ...     image, fit=lambda data, mask: fit_polynomial_sky(data, mask, 1), fwhm=2.5)
    >>> bool(abs(sky.evaluate().compute()[0, -1] - 90) < 0.2), bool(masked.mean() < 0.05)
    (True, True)
    """
    if rounds < 1:
        raise ParameterError(f"rounds={rounds!r}; expected 1 or more.")
    image = as_image(data)
    bad = bad_pixels(image, as_mask(mask, image))
    sky = fit(image, bad)
    masked = bad
    for _ in range(rounds):
        flat = image - sky.evaluate(image.shape, image.chunks)
        # Kept, because the fit takes several passes over it.
        masked = source_mask(flat, bad, **detection).persist()
        sky = fit(image, masked)
    return sky, like(masked, data)
