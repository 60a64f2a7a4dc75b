"""Is a sigma image right? The scatter of source-free pixels over sigma, as a whole and in boxes; and rescaling."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass, field, replace
from functools import partial

import dask.array as da
import numpy as np
from astropy.io import fits

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape, is_finite, is_number, like
from galprep_dask.errors import ParameterError, SigmaWarning
from galprep_dask.image import float_dtype, no_good_pixels
from galprep_dask.noise._kernels.gaussian import clipped_width
from galprep_dask.noise._kernels.sigma import pulls_of_block
from galprep_dask.sky.mesh import box_statistics, join_statistics
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["SigmaCheck", "calibrate_sigma", "check_sigma", "measure_sky_std"]

_log = logging.getLogger("galprep_dask.noise")

#: Beyond these a sigma image is warned about.
_LOWEST, _HIGHEST = 0.8, 1.25
#: A box counts for the lowest and the highest ratio if it has this many pixels, and this share of those of the fullest.
_ENOUGH, _SHARE = 100, 0.1
#: Clipping at less than this would end at nothing: the standard deviation of what is left shrinks faster.
_LEAST_CLIP = 2.5


@dataclass(frozen=True)
class SigmaCheck:
    """
    How a sigma image compares with the noise that was measured; from :func:`~galprep_dask.noise.check_sigma`.

    Attributes
    ----------
    ratio : float
        Standard deviation of source-free pixels over sigma: 1 where sigma is right, 2 where it is half of what it
        should be. Of the rescaled sigma image where it was rescaled.
    error : float
        Of the ratio, 1 sigma, as the number of pixels gives it where their noise is not correlated.
    n_pixels : int
        Source-free pixels.
    box_ratios : (boxes along y, boxes along x) float64 array
        The ratio in every box, NaN in one without source-free pixels.
    box_n_pixels : int array of the same shape
        Their source-free pixels.
    box_size : (int, int)
        Rows and columns of a box.
    scale : float or None
        Factor by which sigma, or its sky term, was rescaled; None where it was not.

    Examples
    --------
    >>> data = np.random.default_rng(0).normal(0, 3.0, (100, 200))
    >>> check = check_sigma(data, np.full(data.shape, 3.0), box_size=100)
    >>> check.box_ratios.round(1)
    array([[1., 1.]])
    >>> check.to_header()["SIGCHKN"]
    20000
    """

    ratio: float
    error: float
    n_pixels: int
    box_ratios: np.ndarray = field(repr=False)
    box_n_pixels: np.ndarray = field(repr=False)
    box_size: tuple[int, int]
    scale: float | None = None

    @property
    def lowest(self) -> float:
        """The lowest ratio of the boxes that have enough pixels for one."""
        return float(np.min(self._ratios_that_count()))

    @property
    def highest(self) -> float:
        """The highest ratio of the boxes that have enough pixels for one."""
        return float(np.max(self._ratios_that_count()))

    def _ratios_that_count(self) -> np.ndarray:
        enough = self.box_n_pixels >= max(_ENOUGH, _SHARE * self.box_n_pixels.max())
        return self.box_ratios[enough] if enough.any() else np.array([self.ratio])

    def to_header(self) -> fits.Header:
        """Write the result down as FITS keywords."""
        cards = [
            ("SIGCHK", self.ratio, "std of data / sigma where there is no source"),
            ("SIGCHKLO", self.lowest, f"the lowest in boxes of {self.box_size[0]} x {self.box_size[1]} pix"),
            ("SIGCHKHI", self.highest, "the highest"),
            ("SIGCHKN", self.n_pixels, "[pix] pixels that it was measured on"),
        ]
        if self.scale is not None:
            cards.append(("SIGSCL", self.scale, "sigma of the sky was rescaled by this"))
        return fits.Header(cards)

    def __str__(self) -> str:
        scaled = "" if self.scale is None else f", rescaled by {self.scale:.4g}"
        return (
            f"std of data / sigma {self.ratio:.4g} +- {self.error:.2g} on {self.n_pixels} source-free pixels"
            f" ({self.lowest:.3g} to {self.highest:.3g} in boxes of {self.box_size[0]} x {self.box_size[1]}){scaled}"
        )


def check_sigma(
    data: ImageLike,
    sigma: ImageLike,
    mask: ImageLike | None = None,
    *,
    box_size: int = 256,
    sigma_clip: float = 5.0,
    expected: float | None = 1.0,
) -> SigmaCheck:
    """
    Compare a sigma image, of whatever origin, with the scatter of source-free pixels.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image. Not modified.
    sigma : (ny, nx) array
        1-sigma uncertainty, in the unit of ``data``. Pixels where it is not finite and positive are left out.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels, as :func:`galprep_dask.sky.source_mask` does.
    box_size : int
        Side in pixels of the boxes in which the ratio is taken too; one box where the image is smaller.
    sigma_clip : float
        Pixels further than this many standard deviations from the median of their box are left out, and what that
        takes from a Gaussian is made up for; 2.5 or more. 5 where sources are masked; 3 keeps the brighter ones out
        where they are not.
    expected : float or None
        A ratio from 0.8 to 1.25 times this is not warned about. ``1 / sqrt(fac2)`` for a sigma image that was made
        larger on purpose, because noise is correlated. None warns about nothing.

    Returns
    -------
    SigmaCheck
        Its ratio is logged.

    Raises
    ------
    ImageShapeError
        Shapes differ.
    NoGoodPixelsError
        No pixel is left.
    ParameterError
        A parameter makes no sense.

    Warns
    -----
    SigmaWarning
        The ratio is below 0.8 or above 1.25 times what is expected.

    Notes
    -----
    One pass over image, sigma and mask. Boxes lie as they lie in the image, whatever the chunks, and the result is the
    same to the bit.

    Examples
    --------
    >>> data = np.random.default_rng(0).normal(0, 3.0, (200, 200))
    >>> round(check_sigma(data, np.full((200, 200), 3.0)).ratio, 2)
    1.0
    """
    if expected is not None:
        _check_expected(expected)
    check = _measure(data, sigma, mask, box_size, sigma_clip)
    report_check(check, expected)
    return check


def calibrate_sigma(
    data: ImageLike,
    sigma: ImageLike,
    mask: ImageLike | None = None,
    *,
    box_size: int = 256,
    sigma_clip: float = 5.0,
    expected: float = 1.0,
) -> tuple[ImageLike, SigmaCheck]:
    """
    Multiply a sigma image, of whatever origin, so that it agrees with the scatter of source-free pixels.

    Parameters
    ----------
    data, sigma, mask : (ny, nx) array
        As for :func:`check_sigma`. ``sigma`` may be ``1 / sqrt(weight)`` of relative weights.
    box_size, sigma_clip : int, float
        As for :func:`check_sigma`.
    expected : float
        The ratio that the result shall have.

    Returns
    -------
    sigma : (ny, nx) array, of the kind given
        Lazy where ``sigma`` is. All of it is multiplied, the photon noise of sources as well; :func:`with_sigma`
        rescales the term of the sky alone.
    check : SigmaCheck
        Of the result; its ``scale`` is the factor.

    Raises
    ------
    ImageShapeError, NoGoodPixelsError, ParameterError
        As for :func:`check_sigma`.

    Examples
    --------
    >>> data = np.random.default_rng(0).normal(0, 3.0, (200, 200))
    >>> sigma, check = calibrate_sigma(data, np.ones((200, 200)))
    >>> round(float(sigma[0, 0]), 1), round(check.scale, 1), round(check.ratio, 3)
    (3.0, 3.0, 1.0)
    """
    _check_expected(expected)
    check = _measure(data, sigma, mask, box_size, sigma_clip)
    scale = check.ratio / expected
    if not scale > 0:
        raise ParameterError("all source-free pixels are equal: there is no noise that sigma could be rescaled to.")
    check = replace(
        check, ratio=check.ratio / scale, error=check.error / scale, box_ratios=check.box_ratios / scale, scale=scale
    )
    report_check(check, expected)
    scaled = as_image(sigma, "sigma")
    return like(scaled * np.asarray(scale, float_dtype(scaled.dtype)), sigma), check


def measure_sky_std(data: ImageLike, mask: ImageLike | None = None, *, sigma_clip: float = 5.0) -> float:
    """
    Measure the standard deviation of source-free pixels, clipped, with what that takes from a Gaussian made up for.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image. Not modified.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels; non-finite pixels are always left out.
    sigma_clip : float
        5 where sources are masked, to take out what is wild; 3 keeps the brighter ones out where they are not.

    Returns
    -------
    float
        In the unit of ``data``.

    Raises
    ------
    NoGoodPixelsError
        Every pixel is masked or not finite.
    ParameterError
        ``sigma_clip`` is below 2.5.

    Examples
    --------
    >>> data = np.random.default_rng(0).normal(0, 3.0, (300, 300))
    >>> round(measure_sky_std(data), 1), round(measure_sky_std(data, sigma_clip=3.0), 1)
    (3.0, 3.0)
    """
    _check_clip(sigma_clip)
    _, _, std = sigma_clipped_stats(data, mask, sigma=sigma_clip, maxiters=10)
    return std / clipped_width(sigma_clip)


def _measure(data, sigma, mask, box_size, sigma_clip) -> SigmaCheck:
    statistics, box = pull_statistics(data, sigma, mask, box_size, sigma_clip)
    return check_of(statistics.compute(), box, sigma_clip)


def pull_statistics(data, sigma, mask, box_size, sigma_clip) -> tuple[da.Array, tuple[int, int]]:
    """Take the statistics of the boxes of an image over its sigma, lazily, for :func:`check_of`; and their size."""
    _check_clip(sigma_clip)
    if not (isinstance(box_size, int | np.integer) and box_size >= 1):
        raise ParameterError(f"box_size={box_size!r}; expected a whole number of pixels, 1 or more.")
    data = as_image(data)
    check_same_shape(sigma, data.shape, "sigma")
    sigma = as_image(sigma, "sigma", chunks=data.chunks)
    mask = as_mask(mask, data)
    dtype = float_dtype(np.result_type(data, sigma))
    pulls = da.map_blocks(
        partial(pulls_of_block, dtype=dtype),
        data,
        sigma,
        *([] if mask is None else [mask]),
        dtype=dtype,
        meta=np.empty((0, 0), dtype),
    )
    box = tuple(min(int(box_size), length) for length in data.shape)
    return box_statistics(pulls, None, box, sigma_clip, 10), box


def check_of(collected: np.ndarray, box: tuple[int, int], sigma_clip: float) -> SigmaCheck:
    """Compare sigma with the noise, given what :func:`pull_statistics` took."""
    n_pixels, means, _, stds = join_statistics(collected)
    n_pixels = n_pixels.astype(np.int64)
    total, filled = int(n_pixels.sum()), n_pixels > 0
    if total == 0:
        raise no_good_pixels("compare sigma with the noise")
    widths = np.where(filled, stds / clipped_width(sigma_clip), np.nan)
    share = n_pixels[filled] / total
    mean = float((share * means[filled]).sum())
    ratio = math.sqrt(float((share * (widths[filled] ** 2 + (means[filled] - mean) ** 2)).sum()))
    return SigmaCheck(ratio, ratio / math.sqrt(2 * total), total, widths, n_pixels, box)


def report_check(check: SigmaCheck, expected: float | None) -> None:
    """Log what was found, and warn where it is not what is expected."""
    _log.info("%s", check)
    if expected is not None and not _LOWEST <= check.ratio / expected <= _HIGHEST:
        about = "1" if expected == 1 else f"{expected:.3g}"
        warnings.warn(
            f"{check}; expected about {about}. Sigma is off by a factor of {check.ratio / expected:.3g}: check its "
            "unit, gain and exposure, or have it rescaled.",
            SigmaWarning, stacklevel=3,
        )  # fmt: skip


def _check_expected(expected) -> None:
    if not (is_finite(expected) and expected > 0):
        raise ParameterError(f"expected={expected!r}; expected a positive number.")


def _check_clip(sigma_clip) -> None:
    if not (is_number(sigma_clip) and sigma_clip >= _LEAST_CLIP):
        raise ParameterError(f"sigma_clip={sigma_clip!r}; expected {_LEAST_CLIP:g} or more.")
