"""The effective PSF: integrated over data pixels already, sampled on any grid. What other programs exchange."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf._kernels.render import box_response, frequencies

__all__ = ["effective_samples", "from_effective", "resampling"]

#: Transfer of a pixel below which an effective PSF says nothing about the light before it fell on the pixel.
LEAST_TRANSFER = 0.1


def resampling(size: int, step: float, fine_size: int, response=None) -> np.ndarray:
    """
    Matrix that samples the band-limited function through ``fine_size`` values at ``size`` points, ``step`` apart.

    Both are centred on their middle. ``response`` multiplies the frequencies. Points beyond the grid give 0.
    """
    f = frequencies(fine_size)
    amplitude = np.where(f == 0, 1.0, 2.0) / fine_size * (1.0 if response is None else response)
    at = step * (np.arange(size) - (size - 1) / 2)
    from_each = at[:, None] - (np.arange(fine_size) - (fine_size - 1) / 2)
    matrix = np.einsum("f,ijf->ij", amplitude, np.cos(2 * np.pi * from_each[:, :, None] * f))
    matrix[np.abs(at) > (fine_size - 1) / 2 + 0.5] = 0
    return matrix


def effective_samples(psf, oversampling: int, size: int, samples_per_pixel: float) -> np.ndarray:
    """
    Flux that a data pixel would receive, at ``size`` x ``size`` positions, ``samples_per_pixel`` to the data pixel.

    Parameters
    ----------
    psf : (..., N, N) array
        PSF, ``oversampling`` fine pixels to the data pixel.
    oversampling, size : int
    samples_per_pixel : float

    Returns
    -------
    (..., size, size) array
        Their sum is samples_per_pixel squared for a PSF of sum 1.
    """
    fine = psf.shape[-1]
    matrix = resampling(
        size, oversampling / samples_per_pixel, fine, box_response(frequencies(fine), oversampling)
    )  # fmt: skip
    return matrix @ psf @ matrix.T


def from_effective(samples, samples_per_pixel: float, oversampling: int, fine_size: int) -> np.ndarray:
    """
    Undo :func:`effective_samples`: to a grid of ``oversampling``, before the integration over data pixels.

    At the data's sampling that is an interpolation. On a finer grid the integration is taken back at the frequencies
    that it has left more than a tenth of.
    """
    count = samples.shape[-1]
    transfer = box_response(frequencies(count), 1) * _pixel(frequencies(count) * samples_per_pixel, oversampling)
    response = np.where(transfer > LEAST_TRANSFER, 1 / np.maximum(transfer, LEAST_TRANSFER), 0.0)
    matrix = resampling(fine_size, samples_per_pixel / oversampling, count, response)
    return matrix @ samples @ matrix.T


def _pixel(frequency, oversampling):
    """Response of the sum over the fine pixels of a data pixel, 1 at 0, at a frequency in cycles per data pixel."""
    folded = np.asarray(frequency) / oversampling
    return np.where(folded < 0.5, box_response(np.minimum(folded, 0.5), oversampling) / oversampling, 0.0)
