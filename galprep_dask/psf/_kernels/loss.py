"""Model of all stars, weights from the model, clipping against it, and the loss.

Stars come in groups, (groups, stars of a group, ...), one group at a time, so that memory does not grow with the
number of stars beyond the stamps themselves.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from galprep_dask.psf._kernels.parts import HIGHEST, matrices_of, rendered
from galprep_dask.psf._kernels.render import inside

__all__ = [
    "Settings", "Stamps", "Stars", "clipped_pixels", "look", "mixed", "model_variance", "profiles",
    "sky_variance", "total_variation", "variation_curvature", "variation_diagonal", "variation_gradient",
]  # fmt: skip

#: Pixels beside a clipped one are clipped at this fraction of the limit.
BESIDE = 0.5
#: Factor of what is allowed in the wings.
WINGS = 0.3
#: Rounding of the total variation, fraction of the peak.
ROUNDING = 1e-3
#: How much flatter than from above the total variation is taken to be along its gradient; more than half overshoots.
FLATTER = 0.5


class Settings(NamedTuple):
    """Numbers of a fit that may change without compiling anew."""

    inverse_gain: jax.Array
    clip: jax.Array  #: sigmas
    floor: jax.Array  #: least tolerance
    free_sky: jax.Array  #: 1 or 0
    a_tv: jax.Array
    a_sky: jax.Array


class Stamps(NamedTuple):
    """What was observed: (groups, stars, ...) arrays."""

    data: jax.Array  #: (g, b, n, n)
    good: jax.Array  #: (g, b, n, n) 1 where a pixel counts, else 0
    variance: jax.Array  #: (g, b, n, n) of the background
    basis: jax.Array  #: (g, b, m) value of every field polynomial at the star


class Stars(NamedTuple):
    """What is fitted a star: (groups, stars) arrays."""

    flux: jax.Array
    dx: jax.Array
    dy: jax.Array
    sky: jax.Array


def mixed(parts, basis):
    """Parts of the PSF of every star of a group: (b, N, N), or (1, N, N) where all have the same."""
    of_star = lambda part: jnp.einsum("bm,mij->bij", basis, part, precision=HIGHEST)  # noqa: E731
    return jax.tree.map(lambda part: part if part.shape[0] == 1 else of_star(part), parts)


def profiles(parts, basis, dx, dy, size, fine, oversampling, derivative=False):
    """Unit-flux stars of a group (b, n, n), with ``derivative`` those in dx and dy too, and their matrices."""
    per_star = mixed(parts, basis)
    if not derivative:
        return rendered(per_star, matrices_of(dx, dy, size, fine, oversampling))
    own, slope = matrices_of(dx, dy, size, fine, oversampling, derivative=True)
    in_x, in_y = (
        own._replace(x=slope.x, core_x=slope.core_x), own._replace(y=slope.y, core_y=slope.core_y)
    )  # fmt: skip
    return tuple(rendered(per_star, matrices) for matrices in (own, in_x, in_y)), own


def model_variance(star_light, variance, inverse_gain):
    """Variance of a pixel from the model: photon noise of the star on top of the background's."""
    return variance + jnp.maximum(star_light, 0) * inverse_gain


def on_grid(dx, dy, size, fine, oversampling):
    """Pixels of the stamps that the shifted PSF covers, (b, n, n)."""
    y, x = (inside(shift, size, fine, oversampling, jnp) for shift in (dy, dx))
    return y[:, :, None] & x[:, None, :]


def clipped_pixels(residual, variance, star_light, clip, tolerance):
    """
    Pixels that the model cannot explain, with the milder ones beside them.

    ``tolerance`` is the fraction by which the model of a star may be wrong: it keeps the cores of bright stars while
    the PSF is still rough, and where stars really differ. While it is large, wings may be wrong by more than
    themselves; what is allowed there is its square, of the star's peak.
    """
    peak = star_light.max((1, 2), keepdims=True)
    wrong = tolerance * (star_light + WINGS * tolerance * peak)
    excess = jnp.abs(residual) / jnp.sqrt(variance + wrong**2)
    hit = excess > clip
    padded = jnp.pad(hit, ((0, 0), (1, 1), (1, 1)))
    beside = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    return hit | (beside & (excess > BESIDE * clip))


def sky_variance(stamps):
    """Mean variance of the background over the good pixels of a stamp, (b,)."""
    count = jnp.maximum(stamps.good.sum((1, 2)), 1)
    return jnp.where(stamps.good.sum((1, 2)) > 0, (stamps.good * stamps.variance).sum((1, 2)) / count, 1)


def _core_misfit(residual, star_light, variance, good, half):
    """Median of |residual| / model over the brightest pixels in the middle, less what noise would give."""
    middle = residual.shape[-1] // 2
    inner = slice(max(middle - half, 0), middle + half + 1)
    core = (slice(None), inner, inner)
    residual, star_light, variance, good = residual[core], star_light[core], variance[core], good[core]
    bright = (good > 0) & (star_light > 0.25 * star_light.max((1, 2), keepdims=True)) & (star_light > 0)
    safe = jnp.where(bright, star_light, 1)
    both = jnp.where(bright, jnp.stack([jnp.abs(residual) / safe, jnp.sqrt(variance) / safe]), jnp.inf)
    both = jnp.sort(both.reshape(2, len(residual), -1), axis=-1)
    count = bright.sum((1, 2))
    # The mean of the two in the middle, or the one that is there.
    at = jnp.stack([jnp.maximum(count - 1, 0) // 2, count // 2], -1)
    measured, noise = jnp.take_along_axis(both, jnp.broadcast_to(at, (2, *at.shape)), axis=-1).mean(-1)
    return jnp.where(count > 0, jnp.sqrt(jnp.maximum((1.4826 * measured) ** 2 - noise**2, 0)), 0)


def look(parts, stars, stamps, tolerance, settings, fine, oversampling, half):
    """
    Compare a group with its model, a PSF of ``fine`` x ``fine`` pixels in its parts.

    Returns
    -------
    found : three (b, n, n) arrays
        Star of flux 1 and its derivatives in dx and dy.
    matrices : Matrices
    residual, weight, clipped : (b, n, n) arrays
        The weight is 1 / variance, 0 where a pixel does not count.
    misfit : (b,) array
        Fraction by which the core differs from the model.
    """
    size = stamps.data.shape[-1]
    found, matrices = profiles(parts, stamps.basis, stars.dx, stars.dy, size, fine, oversampling, derivative=True)
    light = stars.flux[:, None, None] * found[0]
    variance = model_variance(light, stamps.variance, settings.inverse_gain)
    residual = stamps.data - light - stars.sky[:, None, None]
    good = stamps.good * on_grid(stars.dx, stars.dy, size, fine, oversampling)
    misfit = _core_misfit(residual, light, variance, good, half)
    allowed = jnp.maximum(jnp.maximum(misfit, tolerance), settings.floor)
    clipped = clipped_pixels(residual, variance, light, settings.clip, allowed[:, None, None]) & (good > 0)
    weight = jnp.where(clipped, 0, good) / variance
    return found, matrices, residual, weight, clipped, misfit


def _steps(image):
    """Differences to the next pixel in y and x, zero at the last."""
    return (
        jnp.diff(image, axis=0, append=image[-1:]),
        jnp.diff(image, axis=1, append=image[:, -1:]),
    )


def total_variation(image, rounding):
    """Sum of |gradient| of an image, rounded off below ``rounding`` so that it has a derivative."""
    down, right = _steps(image)
    return jnp.sum(jnp.sqrt(down**2 + right**2 + rounding**2) - rounding)


def variation_diagonal(around, rounding):
    """Diagonal of that quadratic's curvature."""
    down, right = _steps(around)
    weight = 1 / jnp.sqrt(down**2 + right**2 + rounding**2)
    below, beside = weight.at[-1].set(0), weight.at[:, -1].set(0)
    return below + beside + jnp.roll(below, 1, 0) + jnp.roll(beside, 1, 1)


def variation_gradient(image, rounding):
    """Gradient of the total variation of an image."""
    down, right = _steps(image)
    weight = 1 / jnp.sqrt(down**2 + right**2 + rounding**2)
    return _back_from_steps(weight * down, weight * right)


def variation_curvature(image, around, rounding):
    """
    Curvature of the total variation at ``around``, times ``image``.

    The quadratic that touches it from above is as curved along the gradient as across, where the total variation is
    straight along it: steps would be far too short. FLATTER lengthens them.
    """
    down, right = _steps(around)
    square = down**2 + right**2 + rounding**2
    d, r = _steps(image)
    along = FLATTER * (down * d + right * r) / square
    root = jnp.sqrt(square)
    return _back_from_steps((d - down * along) / root, (r - right * along) / root)


def _back_from_steps(d, r):
    """Transpose of the differences."""
    return -(jnp.diff(d, axis=0, prepend=0 * d[:1]) + jnp.diff(r, axis=1, prepend=0 * r[:, :1]))
