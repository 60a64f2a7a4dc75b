r"""A fine PSF in two parts: its core on the fine grid, in a small box, and the rest at the data's sampling.

Pixels finer than the data's are needed for what changes within a pixel, and that is the core. So P is cut smoothly in
two, :math:`P = T P + (1 - T) P` with T one in the middle and zero beyond some pixels. The first part is rendered with
the fine matrices of a small box. The second has no frequencies above half a cycle per data pixel but those of its
noise, which stars cannot tell; it is integrated over pixels, sampled at the data's pitch, and shifted there. A star
costs little more than at the data's sampling, and differs by less than 3e-6 of its peak from one that is rendered on
the fine grid as a whole.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erfc

from galprep_dask.psf._kernels.render import box_response, coverage_matrices, frequencies, inside, shift_matrices

__all__ = [
    "HIGHEST", "QUICKLY", "Matrices", "joined", "matrices_of", "parts_of", "pitch_of", "refined", "rendered", "spread",
    "transposed",
]  # fmt: skip

#: float32 products stay float32 on every device; some would take fewer bits.
HIGHEST = jax.lax.Precision.HIGHEST
#: Options of the compiler. One release makes every sum and product of a processor a program of its own, which takes
#: half as long again to compile and runs no faster; later ones no longer know that way.
QUICKLY = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__[:2] == (0, 10) else None
#: Half side of the box, radius at which the two parts are equal and how fast one goes over into the other, data px.
BOX, HALVED, GENTLE = 8, 5.0, 1.5


class Matrices(NamedTuple):
    """What renders the two parts of a group of stars; (b, pixels of the data, pixels of the part)."""

    x: jax.Array
    y: jax.Array
    core_x: jax.Array | None  #: None where there is one part only
    core_y: jax.Array | None


def _is_split(size, oversampling):
    """Whether two parts are less work than one; stars that need finer pixels are too sharp to be cut in two."""
    return oversampling == 2 and size >= 2 * BOX + 5


def pitch_of(size, fine, oversampling):
    """Pixels and oversampling of the part that fills the stamp."""
    return (size, 1) if _is_split(size, oversampling) else (fine, oversampling)


def _constants(size, fine, oversampling):
    """Matrix that integrates and samples the rest; window of the core; where its box begins and ends."""
    f = frequencies(fine)
    low = np.where(f * oversampling < 0.5, box_response(f, oversampling), 0) * np.where(f == 0, 1.0, 2.0) / fine
    distance = oversampling * (np.arange(size) - (size - 1) / 2)[:, None] - (np.arange(fine) - (fine - 1) / 2)
    matrix = np.tensordot(low, np.cos(2 * np.pi * f[:, None, None] * distance), 1)
    half, middle = BOX * oversampling, (fine - 1) // 2
    axis = (np.arange(fine) - middle) / oversampling
    r = np.hypot(axis, axis[:, None])
    window = np.where(r < BOX, 0.5 * erfc((r - HALVED) / GENTLE), 0)
    return matrix, window, slice(middle - half, middle + half + 1)


def _product(a, b):
    return jnp.matmul(a, b, precision=HIGHEST)


def parts_of(psf, size, oversampling):
    """Rest and core of (m, N, N) images; the images and None where they are not split."""
    if not _is_split(size, oversampling):
        return psf, None
    matrix, window, box = _constants(size, psf.shape[-1], oversampling)
    matrix, window = jnp.asarray(matrix, psf.dtype), jnp.asarray(window, psf.dtype)
    rest = _product(_product(matrix, (1 - window) * psf), matrix.T)
    return rest, (window * psf)[:, box, box]


def joined(parts, size, fine, oversampling):
    """Transpose of :func:`parts_of`."""
    rest, core = parts
    if core is None:
        return rest
    matrix, window, box = _constants(size, fine, oversampling)
    matrix, window = jnp.asarray(matrix, rest.dtype), jnp.asarray(window, rest.dtype)
    image = (1 - window) * _product(_product(matrix.T, rest), matrix)
    return image.at[:, box, box].add(window[box, box] * core)


def matrices_of(dx, dy, size, fine, oversampling, derivative=False):
    """Matrices of stars at (b,) dx and dy, and with ``derivative`` their derivatives."""
    pixels, pitch = pitch_of(size, fine, oversampling)
    found = [shift_matrices(shift, size, pixels, pitch, jnp, derivative) for shift in (dx, dy)]
    if _is_split(size, oversampling):
        across, side = 2 * BOX + 3, 2 * BOX * oversampling + 1
        for shift in (dx, dy):
            on = inside(shift, across, side, oversampling, jnp)[:, :, None]
            made = shift_matrices(shift, across, side, oversampling, jnp, derivative)
            found.append(tuple(on * part for part in made) if derivative else on * made)
    else:
        found += [(None, None) if derivative else None] * 2
    return tuple(Matrices(*parts) for parts in zip(*found, strict=True)) if derivative else Matrices(*found)


def rendered(parts, matrices):
    """Stars (b, n, n) of the parts of a PSF."""
    rest, core = parts
    x, y, core_x, core_y = matrices
    stars = _product(_product(y, rest), x.swapaxes(1, 2))
    if core is None:
        return stars
    edge = (stars.shape[-1] - core_x.shape[1]) // 2
    middle = _product(_product(core_y, core), core_x.swapaxes(1, 2))
    return stars + jnp.pad(middle, ((0, 0), (edge, edge), (edge, edge)))


def transposed(image, matrices, summed):
    """
    Transpose of the rendering of images (b, n, n): both parts.

    ``summed(half, x)`` adds up the products over stars, for every coefficient.
    """
    x, y, core_x, core_y = matrices
    rest = summed(_product(y.swapaxes(1, 2), image), x)
    if core_x is None:
        return rest, None
    edge = (image.shape[-1] - core_x.shape[1]) // 2
    box = slice(edge, edge + core_x.shape[1])
    return rest, summed(_product(core_y.swapaxes(1, 2), image[:, box, box]), core_x)


def spread(weight, dx, dy, fine, oversampling, summed):
    """Weights (b, n, n) of the data's pixels put on the fine grid by overlap, and added up over stars."""
    size = weight.shape[-1]
    pixels, pitch = pitch_of(size, fine, oversampling)
    x, y = (coverage_matrices(shift, size, pixels, pitch, jnp) for shift in (dx, dy))
    return summed(_product(y.swapaxes(1, 2), weight), x)


def refined(image, fine, oversampling):
    """Put what was spread over the data's pixels on the fine grid, by interpolation."""
    size = image.shape[-1]
    if size == fine:
        return image
    place = np.clip((np.arange(fine) - (fine - 1) / 2) / oversampling, -(size - 1) / 2, (size - 1) / 2)
    matrix = np.clip(1 - np.abs(place[:, None] - (np.arange(size) - (size - 1) / 2)), 0, 1)
    matrix = jnp.asarray(matrix, image.dtype)
    return _product(_product(matrix, image), matrix.T)
