"""Which pixels hold sky: all but the sources, their faint surroundings, and the bad ones."""

from __future__ import annotations

import dask.array as da
import numpy as np

from galprep_dask.arrays import ImageLike, as_image, as_mask, is_finite, is_whole, like
from galprep_dask.blockwise import keep_mask, merge_blocks_now
from galprep_dask.errors import ParameterError
from galprep_dask.image import bad_pixels, float_dtype
from galprep_dask.masks import grow_by, grow_mask, growth_rings
from galprep_dask.segmentation import smooth
from galprep_dask.segmentation.detect import find_sources
from galprep_dask.sky.faint_light import detect_faint_light, stats_outside

__all__ = ["source_mask"]

#: Margins that would leave less than this share of the good pixels are halved, and then left out.
_LEAST_SKY = 0.35


def source_mask(
    data: ImageLike,
    mask: ImageLike | None = None,
    *,
    fwhm: float,
    n_sigma: float = 3.0,
    n_pixels: int = 5,
    connectivity: int = 8,
    max_grow_size: int = 100,
    addgrow: float = 0,
    faint_scales: tuple[int, ...] = (),
    margin: float = 2.0,
    sky_level: float | None = None,
    known: ImageLike | None = None,
) -> ImageLike:
    """
    Mask sources and bad pixels, so that what is left is sky.

    Sources are detected on the image smoothed by the PSF, above the sky level by ``n_sigma`` clipped standard
    deviations of the image itself, and grown until they fade (:func:`galprep_dask.masks.grow_mask`).

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks bad pixels; non-finite ones always are.
    fwhm : float
        Full width at half maximum of the PSF in pixels.
    n_sigma : float
        Threshold in standard deviations of the sky.
    n_pixels, connectivity : int
        As for :func:`galprep_dask.segmentation.detect_sources`.
    max_grow_size, addgrow : int, float
        As for :func:`galprep_dask.masks.grow_mask`, in pixels.
    faint_scales : tuple of int
        Scales at which faint light is looked for too, on the image averaged over squares of so many pixels and
        smoothed by ``fwhm`` squares; the threshold is then ``n_sigma`` standard deviations, but three at least, of
        the smoothed image, which are far fewer counts than those of the image. 1 is the image as it is.
    margin : float
        With ``faint_scales``: part of its own radius, growth included, by which the mask of every source is widened
        at last, by ``max_grow_size`` pixels at most. The light of a galaxy goes on where no single ring tells it
        from noise. Halved, and at last given up together with ``faint_scales``, where it would leave too little sky.
    sky_level : float, optional
        Level of the sky; by default the clipped median.
    known : (ny, nx) bool array, optional
        Sources that are known already, to be left out of the statistics; in the result if they are found again.

    Returns
    -------
    (ny, nx) bool array, of the kind given
        True where there is no sky to be measured.

    Raises
    ------
    NoGoodPixelsError
        Every pixel is masked or not finite.
    ParameterError
        A parameter makes no sense.

    Notes
    -----
    At scales above 1, what lies as far below the sky is left out as well. Otherwise noise that is high by chance
    would be left out, noise that is low would not, and the mean of what is left would be too low.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(50, 1, (120, 120))
    >>> image[50:60, 50:60] += 100.0
    >>> masked = source_mask(image, fwhm=2.5, max_grow_size=10)
    >>> bool(masked[50:60, 50:60].all()), bool(masked.mean() < 0.05)
    (True, True)
    """
    check_search(faint_scales, margin, n_sigma)
    if not (sky_level is None or is_finite(sky_level)):
        raise ParameterError(f"sky_level={sky_level!r}; expected a finite number, or None.")
    image = as_image(data)
    image = image.astype(float_dtype(image.dtype))  # means of whole numbers are none
    mask = as_mask(mask, image)
    masked, _ = masked_pixels(
        image, mask, bad_pixels(image, mask), as_mask(known, image, "known"), sky_level, fwhm=fwhm, n_sigma=n_sigma,
        n_pixels=n_pixels, connectivity=connectivity, max_grow_size=max_grow_size, addgrow=addgrow,
        faint_scales=faint_scales, margin=margin,
    )  # fmt: skip
    return like(masked, data)


def count_pixels(*masks: da.Array) -> list[int]:
    """Count the pixels that are set in each of a few masks, and compute them together."""
    return merge_blocks_now(_count, sum, *masks).tolist()


def _count(*blocks) -> np.ndarray:
    return np.array([np.count_nonzero(block) for block in blocks])


def check_search(faint_scales, margin, n_sigma) -> None:
    """Raise ParameterError unless scales, margin and threshold make sense."""
    if not is_finite(n_sigma):
        raise ParameterError(f"n_sigma={n_sigma!r}; expected a finite number.")
    if not (is_finite(margin) and margin >= 0):
        raise ParameterError(f"margin={margin!r}; expected zero or a positive number.")
    if not (np.ndim(faint_scales) == 1 and all(is_whole(scale) and scale >= 1 for scale in faint_scales)):
        raise ParameterError(f"faint_scales={faint_scales!r}; expected whole numbers of pixels, 1 or more.")


def masked_pixels(
    image: da.Array, mask: da.Array | None, bad: da.Array, known: da.Array | None, sky_level: float | None, *, fwhm,
    n_sigma, n_pixels, connectivity, max_grow_size, addgrow, faint_scales, margin,
) -> tuple[da.Array, float]:  # fmt: skip
    """
    Do the work of :func:`source_mask`, and say which margin was taken. The mask is kept in memory.

    ``bad`` has the non-finite pixels as well. To make it takes the pixels, so that it is asked for only where ``mask``
    does not do.
    """
    smoothed = smooth(image, fwhm, mask)
    planes = [(image, mask, known)] + ([(smoothed, None, known)] if 1 in faint_scales else [])
    (_, median, std), *of_smoothed = stats_outside(*planes)
    level = median if sky_level is None else sky_level
    growth = {"sky_level": level, "sky_std": std, "max_grow_size": max_grow_size, "mask": mask}

    if faint_scales:
        faint = detect_faint_light(
            image, smoothed, of_smoothed[0][2] if of_smoothed else np.nan, mask, known, sky_level=level, sky_std=std,
            max_grow_size=max_grow_size, scales=faint_scales, fwhm=fwhm, n_sigma=n_sigma, n_pixels=n_pixels,
            connectivity=connectivity,
        )  # fmt: skip
        sources = find_sources(faint.bright.astype(np.uint8), 0, 1, connectivity, bad)
        rings = growth_rings(sources, image, **growth)
        for part in (margin, margin / 2, margin / 4, 0.0):
            widths = rings + addgrow + np.minimum(part * (np.sqrt(sources.areas / np.pi) + rings), max_grow_size)
            masked = keep_mask(grow_by(sources, widths) | faint.dark | bad)
            n_masked, n_bad = count_pixels(masked, bad)
            if image.size - n_masked >= _LEAST_SKY * (image.size - n_bad):  # what is bad is masked
                return masked, part

    sources = find_sources(smoothed, level + n_sigma * std, n_pixels, connectivity, bad)
    return keep_mask(grow_mask(sources, image, addgrow=addgrow, **growth) | bad), 0.0
