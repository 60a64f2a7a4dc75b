"""The few ways in which a PSF varies over the field, learnt from a first fit: size, shape and what else stands out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Modes", "find_modes", "shape_derivatives", "shrunk", "smooth_images"]

#: Widths of smooth images: the narrowest over the Gaussian width of the PSF, the step from one to the next, and the
#: widest over the side of the PSF.
NARROWEST, STEP, WIDEST = 0.6, 1.5, 0.25
#: Angular orders of smooth images.
ORDERS = (0, 1, 2, 3, 4)
#: Combinations of smooth images weaker than this fraction of the strongest are not told apart from the others.
LEAST = 1e-2
#: Change of ln size, e1 and e2 by which derivatives are taken.
SLIGHT = 0.03
#: Size and shape are fitted so many times, each time to what their own squares leave.
TIMES = 6


class Modes(NamedTuple):
    """What is expected of the coefficients of a field."""

    mean: np.ndarray  #: (m, N, N), the first zero
    variance: np.ndarray  #: (m, N, N) by how much the mean may be wrong
    rest: np.ndarray  #: (m, N, N) what the coefficients have beside it
    shape: np.ndarray  #: (m - 1, 3) coefficients of ln size, e1 and e2
    rank: int  #: modes beside size and shape


def find_modes(psf, diagonal, basis, weight, free: int, width: float) -> Modes:
    """
    Learn from coefficients that were fitted freely how the PSF varies.

    The size and the two components of the shape are polynomials of the position, to second order in what they do to the
    mean PSF. Of what they leave in the first ``free`` coefficients, modes are kept that stand above the noise: smooth
    images times polynomials, by the singular values of their table [1]_.

    Parameters
    ----------
    psf : (m, N, N) array
        Coefficients; the first is the mean PSF.
    diagonal : (m, N, N) array
        Of their normal matrix: one over their variances.
    basis : (k, m) array
        Polynomials at the stars, lowest degrees first, orthonormal under ``weight``.
    weight : (k,) array
    free : int
        Coefficients of the degree up to which every pixel may vary, the first included.
    width : float
        Standard deviation of the Gaussian that is most like the PSF, fine pixels.

    Returns
    -------
    Modes

    References
    ----------
    .. [1] Gavish and Donoho 2017, IEEE Transactions on Information Theory 63, 2137.
    """
    fine = psf.shape[-1]
    root = np.sqrt(diagonal[0])
    smooth, first, second = shape_derivatives(psf[0], root, width)
    flat = lambda images: (root * images).reshape(-1, fine * fine).T  # noqa: E731
    own = np.linalg.qr(flat(np.stack([smooth, *np.gradient(smooth)])))[0]

    def told(images):
        """Give what is told of images: what goes with flux and place of a star is not, and a fit leaves it anywhere."""
        columns = flat(images)
        return (columns - own @ (own.T @ columns)).T.reshape(images.shape) / root

    first, second, rest = told(first), told(second), told(psf)
    slopes, curves, seen = (flat(images) for images in (first, second, rest[1:]))
    shape, squares, error2 = _shape_of(slopes, curves, seen, basis[:, 1:], weight / weight.sum())
    mean, variance = np.zeros_like(psf), np.zeros_like(psf)
    mean[1:] = np.tensordot(shape, first, 1) + 0.5 * np.tensordot(squares, second.reshape(9, fine, fine), 1)
    variance[1:] = np.tensordot(error2, first**2, 1)
    images, rest = smooth_images(width, root), rest - mean
    # In units of the noise of the pixels, noise of every number in this table is 1.
    left, right = shrunk(np.einsum("qij,mij->mq", images, root * rest[1:free]))
    found = np.einsum("rq,qij->rij", right, images) / root
    seen = np.tensordot(left, found, 1)
    mean[1:free] += seen
    rest[1:free] -= seen
    variance[1:free] += (found**2).sum(0)
    return Modes(mean, variance, rest, shape, len(right))


def _functions(y, x, width, fine):
    """Gaussians of all widths, times waves around the middle: (q, N, N)."""
    r2, around = x**2 + y**2, x + 1j * y
    waves = [around**order for order in ORDERS]
    images, sigma = [], NARROWEST * width
    while sigma < max(WIDEST * fine, 1.01 * NARROWEST * width):
        round_one = np.exp(-r2 / (2 * sigma**2))
        for order, wave in zip(ORDERS, waves, strict=True):
            light = round_one / sigma**order
            images += [light * wave.real, light * wave.imag] if order else [light]
        sigma *= STEP
    return np.stack(images)


def _integrated(images):
    """Integrate smooth images over pixels, by the mean over each of the functions through their values."""
    fine = images.shape[-1]
    y, x = np.sinc(np.fft.fftfreq(fine)), np.sinc(np.fft.rfftfreq(fine))
    return np.fft.irfft2(np.fft.rfft2(images) * np.outer(y, x), s=images.shape[-2:])


def _axes(fine):
    return np.meshgrid(*(np.arange(fine) - (fine - 1) / 2,) * 2, indexing="ij")


def smooth_images(width: float, root) -> np.ndarray:
    """Give smooth images (q, N, N), times ``root``, orthonormal."""
    fine = root.shape[-1]
    rows = (root * _functions(*_axes(fine), width, fine)).reshape(-1, fine * fine)
    rows = rows / np.sqrt((rows**2).sum(1, keepdims=True))
    _, strength, rows = np.linalg.svd(rows, full_matrices=False)
    return rows[strength > LEAST * strength[0]].reshape(-1, fine, fine)


def shape_derivatives(psf, root, width: float):
    """
    Differentiate a PSF in ln size, e1 and e2, by which its coordinates are stretched.

    Derivatives of noise would be larger than noise, so they are those of a sum of Gaussians like the PSF.

    Returns
    -------
    smooth : (N, N) array
    first : (3, N, N) array
    second : (3, 3, N, N) array
    """
    fine = psf.shape[-1]
    y, x = _axes(fine)
    columns = (root * _integrated(_functions(y, x, width, fine))).reshape(-1, fine * fine).T
    parts = np.linalg.lstsq(columns, (root * psf).ravel(), rcond=1e-4)[0]

    def stretched(size, e1, e2):
        values, axes = np.linalg.eigh(-np.array([[size + e1, e2], [e2, size - e1]]))
        (a, b), (_, c) = axes @ np.diag(np.exp(values)) @ axes.T
        image = np.tensordot(parts, _functions(b * x + c * y, a * x + b * y, width, fine), 1)
        return np.exp(-2 * size) * _integrated(image)

    step = SLIGHT * np.eye(3)
    smooth = stretched(0, 0, 0)
    up, down = (np.stack([stretched(*row) for row in rows]) for rows in (step, -step))
    second = np.empty((3, 3, fine, fine))
    for i in range(3):
        second[i, i] = (up[i] + down[i] - 2 * smooth) / SLIGHT**2
        for j in range(i):
            both = sum(a * b * stretched(*(a * step[i] + b * step[j])) for a in (1, -1) for b in (1, -1))
            second[i, j] = second[j, i] = both / (4 * SLIGHT**2)
    return smooth, (up - down) / (2 * SLIGHT), second


def _shape_of(slopes, curves, seen, basis, weight):
    """Coefficients of ln size, e1 and e2, (m, 3), of their products, (m, 9), and variances of the first."""
    covariance = np.linalg.inv(slopes.T @ slopes)
    variance, squares = np.diagonal(covariance), np.zeros((basis.shape[1], 9))
    degree = np.repeat(np.arange(1, 9), np.arange(2, 10))[: basis.shape[1]]
    for _ in range(TIMES):
        shape = (covariance @ (slopes.T @ (seen - 0.5 * curves @ squares.T))).T
        # The polynomials of a degree are taken for as much of what they look like as is not noise.
        power = np.stack([np.mean(shape[degree == d] ** 2, axis=0) for d in degree])
        shape = shape * np.maximum(1 - variance / np.maximum(power, 1e-30), 0)
        at = basis @ shape
        squares = basis.T @ (weight[:, None] * (at[:, :, None] * at[:, None, :]).reshape(-1, 9))
    return shape, squares, variance * np.maximum(1 - variance / np.maximum(power, 1e-30), 0)


def shrunk(table) -> tuple[np.ndarray, np.ndarray]:
    """
    Estimate a table of low rank from one with noise of variance 1.

    Returns
    -------
    left : (m, r) array
    right : (r, n) array
        Their product is the estimate; rows of ``right`` are orthonormal.
    """
    short, long = sorted(table.shape)
    left, values, right = np.linalg.svd(table, full_matrices=False)
    known = values > np.sqrt(short) + np.sqrt(long)
    square = values[known] ** 2
    best = np.sqrt((square - short - long) ** 2 - 4 * short * long) / values[known]
    return left[:, known] * best, right[known]
