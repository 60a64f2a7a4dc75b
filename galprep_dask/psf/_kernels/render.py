"""A PSF at the pixels of a star: shifted, integrated over pixels and sampled, by two small matrices.

The PSF P lives on an odd grid, ``oversampling`` (s) times finer than the data, and is taken for the band-limited
function through its values. Shifting it, adding up s x s fine pixels and keeping one value a data pixel are three
products in Fourier space, and each is one in x times one in y. So a star is ``Y P X^T`` with matrices of (data
pixels x fine pixels), which is less work than a transform a star, and its derivative, transpose and diagonal follow
from the same matrices.
"""

import numpy as np
import scipy.fft

__all__ = ["box_response", "coverage_matrices", "frequencies", "inside", "shift_matrices", "shifted"]


def frequencies(fine_size):
    """Non-negative frequencies of an odd grid, cycles per fine pixel."""
    return np.arange((fine_size + 1) // 2) / fine_size


def box_response(frequency, oversampling):
    """Fourier response of the sum of ``oversampling`` fine pixels about a point."""
    frequency = np.asarray(frequency, float)
    safe = np.where(frequency == 0, 0.25, frequency)
    ratio = np.sin(np.pi * oversampling * safe) / np.sin(np.pi * safe)
    return np.where(frequency == 0, float(oversampling), ratio)


def shift_matrices(shift, size, fine_size, oversampling, xp=np, derivative=False):
    r"""
    Matrices that shift a fine row by ``shift`` data pixels and sample it at the data pixels.

    :math:`A_{ij} = \frac1N \sum_f \frac{\sin \pi s f}{\sin \pi f} \cos 2\pi f (s (i - c - d) - (j - C))`

    Parameters
    ----------
    shift : (k,) array
        Distance d of each star from the middle of its stamp, data pixels.
    size, fine_size : int
        Pixels of a stamp and of the PSF along the axis, both odd.
    oversampling : int
        Fine pixels per data pixel.
    xp : module
        numpy or jax.numpy.
    derivative : bool
        Give the derivative with respect to the shift too.

    Returns
    -------
    (k, size, fine_size) array, or two
    """
    f = frequencies(fine_size)
    amplitude = box_response(f, oversampling) * np.where(f == 0, 1.0, 2.0) / fine_size
    # An element depends on the distance from its data pixel to its fine one, so only those that occur are evaluated.
    # Without the shift their angles are known exactly; float32 sees only the small one of the shift.
    place = np.add.outer(oversampling * np.arange(size), fine_size - 1 - np.arange(fine_size))
    distance = np.arange(place.max() + 1) - place.max() // 2
    angle = 2 * np.pi * np.outer(f, distance)
    dtype = shift.dtype
    table = xp.asarray(np.concatenate([amplitude[:, None] * part(angle) for part in (np.cos, np.sin)]), dtype)
    omega = xp.asarray(2 * np.pi * oversampling * f, dtype)
    small = shift[:, None] * omega
    cos, sin = xp.cos(small), xp.sin(small)
    matrices = (xp.concatenate([cos, sin], axis=1) @ table)[:, place]
    if not derivative:
        return matrices
    return matrices, (xp.concatenate([-omega * sin, omega * cos], axis=1) @ table)[:, place]


def shifted(images, dx, dy):
    """Shift (k, n, n) odd images by (k,) dx and dy px: the band-limited functions through their values."""
    f = np.fft.fftfreq(images.shape[-1])
    wave_x, wave_y = (np.exp(-2j * np.pi * np.asarray(d)[:, None] * f) for d in (dx, dy))
    half = f[f >= 0].size
    transform = scipy.fft.rfft2(images) * wave_y[:, :, None] * wave_x[:, None, :half]
    return scipy.fft.irfft2(transform, s=images.shape[1:])


def inside(shift, size, fine_size, oversampling, xp=np):
    """Whether a data pixel lies on the grid of the shifted PSF, (k, size); beyond it the row would wrap round."""
    offset = xp.asarray(oversampling * (np.arange(size) - (size - 1) / 2), shift.dtype)
    return xp.abs(offset - oversampling * shift[:, None]) <= (fine_size - 1) / 2 + 0.5


def coverage_matrices(shift, size, fine_size, oversampling, xp=np):
    """Fraction of a fine pixel that a data pixel covers, along one axis, (k, size, fine_size).

    It spreads weights over the fine grid without the ringing of the interpolation.
    """
    pixel = xp.asarray(oversampling * (np.arange(size) - (size - 1) / 2), shift.dtype)
    fine = xp.asarray(np.arange(fine_size) - (fine_size - 1) / 2, shift.dtype)
    distance = xp.abs((pixel - oversampling * shift[:, None])[:, :, None] - fine)
    return xp.clip((oversampling + 1) / 2 - distance, 0, 1)
