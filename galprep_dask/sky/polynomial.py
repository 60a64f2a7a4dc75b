"""A polynomial sky, fitted from sums over blocks.

The basis is T_i(v) T_j(u) with i + j <= order: products of Chebyshev polynomials of the first kind in row v and
column u, each mapped from the first to the last pixel of the image to [-1, 1]. Because
T_i T_k = (T_(i+k) + T_|i-k|) / 2, the whole normal matrix follows from the (2 order + 1)^2 moments of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import dask.array as da
import numpy as np
from astropy.io import fits

from galprep_dask.arrays import CHUNK_SIDE, ImageLike
from galprep_dask.blockwise import map_blocks_at
from galprep_dask.errors import ParameterError, TooFewPixelsError
from galprep_dask.image import no_good_pixels
from galprep_dask.sky._kernels.chebyshev import change_of_sums, evaluate_block, subtract_polynomial, sums_and_band
from galprep_dask.sky.least_squares import Solution, check_fit, clipped_fit, fit_planes, normal_matrix

__all__ = ["PolynomialSky", "fit_polynomial_sky"]

#: Past this condition number the good pixels do not determine the coefficients to any useful digit.
_WORST_CONDITION = 1e12


@dataclass(frozen=True)
class PolynomialSky:
    """
    A sky that is a polynomial of total degree ``order``.

    Attributes
    ----------
    coefficients : (order + 1, order + 1) float64 array
        ``coefficients[i, j]`` belongs to T_i(v) T_j(u), v along y and u along x, both in [-1, 1] from the first to
        the last pixel; zero where i + j > order.
    covariance : (n, n) float64 array
        Of the n coefficients with i + j <= order, in the order of :attr:`terms`.
    rms : float
        Standard deviation of the fitted pixels about the sky, weighted where weights were given.
    shape : (int, int)
        Shape of the image that it was fitted to, the domain of the basis.
    n_pixels : int
        Number of pixels that it was fitted to.
    """

    coefficients: np.ndarray
    rms: float
    shape: tuple[int, int]
    n_pixels: int
    covariance: np.ndarray = field(repr=False)

    @property
    def order(self) -> int:
        """Total degree."""
        return len(self.coefficients) - 1

    @property
    def terms(self) -> list[tuple[int, int]]:
        """The pairs (i, j) with i + j <= order, in the order of :attr:`covariance`."""
        return _terms(self.order)

    def evaluate(self, shape: tuple[int, int] | None = None, chunks=(CHUNK_SIDE, CHUNK_SIDE)) -> da.Array:
        """
        Give the sky as a lazy image.

        Parameters
        ----------
        shape : (ny, nx), optional
            By default that of the image fitted. Another shape continues the polynomial on the same pixel
            grid.
        chunks : optional
            Chunks of the result.

        Returns
        -------
        (ny, nx) float64 dask array
        """
        shape = self.shape if shape is None else shape
        chunks = da.core.normalize_chunks(chunks, shape, dtype=np.float64)
        template = da.zeros(shape, chunks=chunks, dtype=bool)  # gives blocks their shape, and nothing else
        return map_blocks_at(
            _evaluate_like, template, dtype=np.float64, coefficients=self.coefficients, image_shape=self.shape
        )

    def subtract_from(self, image: da.Array, dtype) -> da.Array:
        """
        Give an image minus the sky, lazily, without an image of the sky in between.

        Parameters
        ----------
        image : (ny, nx) dask array
            In the unit of the sky.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        (ny, nx) dask array of ``dtype``
            The same to the bit as the difference to :meth:`evaluate`, taken in float64 and rounded once.
        """
        how = {"coefficients": self.coefficients, "image_shape": self.shape}
        return map_blocks_at(partial(subtract_polynomial, dtype=dtype, **how), image, dtype=dtype)

    def to_header(self) -> fits.Header:
        """Write the model down as FITS keywords, from which :meth:`from_header` makes it again."""
        header = fits.Header()
        header["SKYMODEL"] = ("polynomial", "sky model that was subtracted")
        header["SKYORDER"] = (self.order, "total degree; basis T_i(v) T_j(u)")
        header["SKYNX"] = (self.shape[1], "u is -1 on the first and 1 on this column")
        header["SKYNY"] = (self.shape[0], "v is -1 on the first and 1 on this row")
        header["SKYRMS"] = (self.rms, "rms of source-free pixels")
        header["SKYNPIX"] = (self.n_pixels, "pixels fitted")
        for i, j in self.terms:
            # As text: a FITS card written as a number by astropy keeps 20 characters, not every bit.
            header[f"SKY{i:02d}_{j:02d}"] = (repr(float(self.coefficients[i, j])), f"coefficient of T_{i}(v) T_{j}(u)")
        return header

    @classmethod
    def from_header(cls, header: fits.Header) -> PolynomialSky:
        """
        Make the sky that :meth:`to_header` wrote.

        Parameters
        ----------
        header : Header
            With the keywords ``SKYMODEL``, ``SKYORDER`` ...

        Returns
        -------
        PolynomialSky
            Its covariance, which no header carries, is NaN.

        Raises
        ------
        ParameterError
            The header describes no polynomial sky.
        """
        if header.get("SKYMODEL") != "polynomial":
            raise ParameterError(f"the header has SKYMODEL={header.get('SKYMODEL')!r}; expected 'polynomial'.")
        order = header["SKYORDER"]
        coefficients = np.zeros((order + 1, order + 1))
        for i, j in _terms(order):
            coefficients[i, j] = float(header[f"SKY{i:02d}_{j:02d}"])
        n = len(_terms(order))
        return cls(
            coefficients, header["SKYRMS"], (header["SKYNY"], header["SKYNX"]), header["SKYNPIX"],
            np.full((n, n), np.nan),
        )  # fmt: skip


def _evaluate_like(block, *, origin, coefficients, image_shape):
    return evaluate_block(block.shape, origin, coefficients, image_shape)


def _terms(order: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]


def fit_polynomial_sky(
    data: ImageLike,
    mask: ImageLike | None = None,
    order: int = 3,
    *,
    weight: ImageLike | None = None,
    sigma_clip: float | None = 3.0,
    maxiters: int = 5,
) -> PolynomialSky:
    """
    Fit a polynomial of total degree ``order`` to the unmasked pixels by weighted least squares.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any linear unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels; non-finite pixels are always left out.
    order : int
        Total degree; 0 is a constant.
    weight : (ny, nx) array, optional
        Inverse variance. Equal weights by default; pixels without a positive weight are left out.
    sigma_clip : float or None
        After a fit, pixels further than this many rms from the sky (of ``sqrt(weight) * residual``
        where weights are given) are left out of the next. None leaves none out.
    maxiters : int
        Fits with clipping at most; fewer when the number of pixels no longer changes.

    Returns
    -------
    PolynomialSky
        Coefficients, covariance and rms in the unit of ``data``; ``evaluate`` gives the sky lazily.

    Raises
    ------
    ImageShapeError
        Shapes differ.
    NoGoodPixelsError, TooFewPixelsError
        There is no good pixel; the good pixels do not determine the polynomial.
    ParameterError
        ``order`` is negative, or ``sigma_clip`` or ``maxiters`` make no sense.

    Notes
    -----
    In a pass over the image each block gives a vector of sums, from which the fit follows. One pass for the first fit,
    a second about the first solution where the sky is so high that sums of pixels would not do, and one for the fits
    with clipping; more where a fit changes the limit by more than a few per cent. Chunks change the rounding of sums
    and nothing else. The covariance supposes independent pixels with the
    noise that the residuals show.

    Examples
    --------
    >>> image = np.add.outer(np.arange(40.0), np.zeros(50))
    >>> sky = fit_polynomial_sky(image, order=1)
    >>> bool(np.ptp(image - sky.evaluate(image.shape)) < 1e-9)
    True
    """
    check_fit(order, 0, sigma_clip, maxiters)
    planes = fit_planes(data, mask, weight)
    shape = planes[0].shape
    zero = np.zeros((order + 1, order + 1))
    domain = {"image_shape": shape, "order": order}
    found = clipped_fit(
        planes, zero, sigma_clip, maxiters, solve=_solved, furthest=_furthest, rounding=_rounding,
        look=partial(sums_and_band, corner=(0, 0), has_mask=mask is not None, has_weight=weight is not None, **domain),
        change=partial(change_of_sums, **domain),
    )  # fmt: skip
    sums = _Sums(found.sums, order)
    return PolynomialSky(
        found.model + found.correction, sums.rms_about(found.correction), shape, found.n_pixels,
        np.linalg.inv(sums.normal_matrix) * sums.reduced_chi2_about(found.correction),
    )  # fmt: skip


def _solved(vector: np.ndarray, model: np.ndarray) -> Solution:
    sums = _Sums(vector, len(model) - 1)
    correction = _solve(sums)
    left = sums.square_about(correction)
    return Solution(
        model, correction, sums.scatter_about(correction), left / sums.square if sums.square > 0 else 0.0,
        sums.n_pixels, vector,
    )  # fmt: skip


def _furthest(correction: np.ndarray) -> float:
    return float(np.abs(correction).sum())  # no Chebyshev polynomial exceeds one


def _rounding(found: Solution) -> float:
    return _Sums(found.sums, len(found.model) - 1).rounding_of(found.model + found.correction)


class _Sums:
    """The sums of a pass, with names."""

    def __init__(self, vector: np.ndarray, order: int):
        wide, narrow = 2 * order + 1, order + 1
        self.order = order
        self.gram = vector[: wide * wide].reshape(wide, wide)
        self.rhs = vector[wide * wide : wide * wide + narrow * narrow].reshape(narrow, narrow)
        self.square = float(vector[-2])
        self.n_pixels = int(vector[-1])

    @property
    def terms(self) -> list[tuple[int, int]]:
        return _terms(self.order)

    @property
    def normal_matrix(self) -> np.ndarray:
        """Weighted products of all pairs of terms."""
        return normal_matrix(self.gram, *np.array(self.terms).T)

    @property
    def right_side(self) -> np.ndarray:
        return np.array([self.rhs[i, j] for i, j in self.terms])

    def square_about(self, correction: np.ndarray) -> float:
        """Sum of weight * residual^2 that the correction leaves."""
        c = np.array([correction[i, j] for i, j in self.terms])
        return max(self.square - 2 * c @ self.right_side + c @ self.normal_matrix @ c, 0.0)

    def scatter_about(self, correction: np.ndarray) -> float:
        """Give the standard deviation of sqrt(weight) * residual, the quantity that is clipped."""
        return float(np.sqrt(self.square_about(correction) / self.n_pixels))

    def rounding_of(self, model: np.ndarray) -> float:
        """How far sqrt(weight) * residual is from zero because a model of this size is rounded."""
        mean_weight = self.gram[0, 0] / self.n_pixels
        return float(8 * np.finfo(np.float64).eps * np.abs(model).sum() * np.sqrt(mean_weight))

    def rms_about(self, correction: np.ndarray) -> float:
        """Weighted standard deviation of the residuals; gram[0, 0] is the sum of weights."""
        return float(np.sqrt(self.square_about(correction) / self.gram[0, 0]))

    def reduced_chi2_about(self, correction: np.ndarray) -> float:
        return self.square_about(correction) / max(self.n_pixels - len(self.terms), 1)


def _solve(sums: _Sums) -> np.ndarray:
    """Solve the normal equations; the coefficients as a triangle in a square."""
    order = sums.order
    if sums.n_pixels == 0:
        raise no_good_pixels("fit the sky")
    n = len(sums.terms)
    if sums.n_pixels < n:
        raise TooFewPixelsError(
            f"cannot fit a sky of order {order}: it has {n} coefficients, and only {sums.n_pixels} pixels are good. "
            "Lower the order, or mask less."
        )
    matrix = sums.normal_matrix
    norms = np.sqrt(np.maximum(np.diag(matrix), 0))
    scale = 1 / np.where(norms > 0, norms, 1)
    scaled = matrix * scale[:, None] * scale
    if not norms.all() or np.linalg.cond(scaled) > _WORST_CONDITION:  # the norm of u is 0 on a single column
        raise TooFewPixelsError(
            f"cannot fit a sky of order {order}: the {sums.n_pixels} good pixels lie so that they do not determine "
            "its coefficients. Lower the order, or mask less."
        )
    solution = scale * np.linalg.solve(scaled, scale * sums.right_side)
    coefficients = np.zeros((order + 1, order + 1))
    for (i, j), value in zip(sums.terms, solution, strict=True):
        coefficients[i, j] = value
    return coefficients
