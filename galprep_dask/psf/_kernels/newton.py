"""The default solver: Gauss-Newton on all stars together, the stars' own parameters eliminated.

A round updates flux, position and sky of every star (a 4 x 4 system each), takes weights and clipped pixels from the
model, and then improves P by preconditioned conjugate gradients on the normal equations in which the stars' own
parameters have been projected out. So P moves as if all were solved at once: what a shift, a change of flux or of sky
of a star could explain as well is left to it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from galprep_dask.psf._kernels.loss import (
    HIGHEST,
    Stars,
    clipped_pixels,
    model_variance,
    on_grid,
    profiles,
    total_variation,
    variation_curvature,
    variation_diagonal,
)  # fmt: skip
from galprep_dask.psf._kernels.render import coverage_matrices, shift_matrices

__all__ = ["Settings", "Summary", "psf_round", "star_round"]

#: Largest step of a position in one update, data pixels.
LONGEST_STEP = 0.5
#: Rounding of the total variation, fraction of the peak.
ROUNDING = 1e-3


class Settings(NamedTuple):
    """Numbers of a fit that may change without compiling anew."""

    inverse_gain: jax.Array
    clip: jax.Array  #: sigmas
    floor: jax.Array  #: least tolerance
    free_sky: jax.Array  #: 1 or 0
    a_tv: jax.Array
    a_sky: jax.Array


class Summary(NamedTuple):
    """What a round tells about itself."""

    chi2: jax.Array  #: (g, b) sum of (residual / sigma)^2 over good pixels
    n_good: jax.Array  #: (g, b)
    n_clipped: jax.Array  #: (g, b)
    misfit: jax.Array  #: (g, b) fractional disagreement of the core with the model, noise taken off
    normal: jax.Array  #: (g, b, 4, 4) curvature in flux, dx, dy, sky
    loss: jax.Array


def _core_misfit(residual, star_light, variance, good, half):
    """Median of |residual| / model over the brightest pixels in the middle, less what noise would give."""
    middle = residual.shape[-1] // 2
    inner = slice(max(middle - half, 0), middle + half + 1)
    core = (slice(None), inner, inner)
    residual, star_light, variance, good = residual[core], star_light[core], variance[core], good[core]
    bright = (good > 0) & (star_light > 0.25 * star_light.max((1, 2), keepdims=True)) & (star_light > 0)
    safe = jnp.where(bright, star_light, 1)
    middle_of = lambda values: jnp.nan_to_num(  # noqa: E731
        jnp.nanmedian(jnp.where(bright, values, jnp.nan).reshape(len(values), -1), axis=1)
    )
    measured, noise = 1.4826 * middle_of(jnp.abs(residual) / safe), middle_of(jnp.sqrt(variance) / safe)
    return jnp.sqrt(jnp.maximum(measured**2 - noise**2, 0))


def _look(psf, stars, stamps, tolerance, settings, oversampling, half, derivative=True):
    """Model of a group with weights, residuals and clipped pixels."""
    size = stamps.data.shape[-1]
    found = profiles(psf, stamps.basis, stars.dx, stars.dy, size, oversampling, derivative)
    profile = found[0] if derivative else found
    light = stars.flux[:, None, None] * profile
    variance = model_variance(light, stamps.variance, settings.inverse_gain)
    residual = stamps.data - light - stars.sky[:, None, None]
    good = stamps.good * on_grid(stars.dx, stars.dy, size, psf.shape[-1], oversampling)
    misfit = _core_misfit(residual, light, variance, good, half)
    allowed = jnp.maximum(jnp.maximum(misfit, tolerance), settings.floor)
    clipped = clipped_pixels(residual, variance, light, settings.clip, allowed[:, None, None]) & (good > 0)
    weight = jnp.where(clipped, 0, good) / variance
    return found, residual, weight, clipped, misfit


def _star_normal(found, weight, stamps, stars, settings, n_good_all, n_all):
    """Columns of the model in flux, dx, dy and sky, and their normal matrix."""
    profile, in_x, in_y = found
    # A star that has vanished keeps a slope, so that its matrix can be solved.
    noise = 1 / jnp.sqrt(jnp.sum(weight * profile**2, (1, 2)) + 1e-30)
    flux = jnp.maximum(stars.flux, jnp.minimum(noise, 1e15))[:, None, None]
    sky = jnp.broadcast_to(settings.free_sky, profile.shape)
    columns = jnp.stack([profile, flux * in_x, flux * in_y, sky], 1)
    normal = jnp.einsum("baij,bcij,bij->bac", columns, columns, weight, precision=HIGHEST)
    held = 2 * settings.a_sky * n_good_all / n_all / _sky_variance(stamps)
    extra = jnp.zeros((4, 4), normal.dtype).at[3, 3].set(1)
    normal = normal + (held * settings.free_sky + (1 - settings.free_sky))[:, None, None] * extra
    return columns, normal, held


def _sky_variance(stamps):
    """Mean variance of the background over the good pixels of a stamp, (b,)."""
    count = jnp.maximum(stamps.good.sum((1, 2)), 1)
    return jnp.where(stamps.good.sum((1, 2)) > 0, (stamps.good * stamps.variance).sum((1, 2)) / count, 1)


def _whitened(normal):
    """Cholesky factor of a normal matrix with unit diagonal and the scale of its columns."""
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(normal, axis1=1, axis2=2), 1e-30))
    eye = jnp.eye(4, dtype=normal.dtype)
    matrix = normal / (scale[:, :, None] * scale[:, None, :]) * (1 - eye) + (1 + 1e-6) * eye
    return jnp.linalg.cholesky(matrix), scale


def _update(psf, stars, stamps, tolerance, settings, oversampling, half, n_good_all, n_all):
    """One Gauss-Newton step of the stars of a group."""
    found, residual, weight, _, _ = _look(psf, stars, stamps, tolerance, settings, oversampling, half)
    columns, normal, held = _star_normal(found, weight, stamps, stars, settings, n_good_all, n_all)
    right = jnp.einsum("baij,bij->ba", columns, weight * residual, precision=HIGHEST)
    right = right.at[:, 3].add(-held * stars.sky * settings.free_sky)
    factor, scale = _whitened(normal)
    step = jax.scipy.linalg.cho_solve((factor, True), (right / scale)[:, :, None])[:, :, 0] / scale
    far = jnp.maximum(jnp.abs(step[:, 1:3]).max(1) / LONGEST_STEP, 1)
    alive = stamps.good.sum((1, 2)) > 0
    limit = (stamps.data.shape[-1] - 1) / 2
    return Stars(
        jnp.where(alive, stars.flux + step[:, 0], stars.flux),
        jnp.where(alive, jnp.clip(stars.dx + step[:, 1] / far, -limit, limit), stars.dx),
        jnp.where(alive, jnp.clip(stars.dy + step[:, 2] / far, -limit, limit), stars.dy),
        jnp.where(alive, stars.sky + step[:, 3] * settings.free_sky, stars.sky),
    )


def _totals(stamps):
    return jnp.maximum(stamps.good.sum(), 1), jnp.maximum((stamps.good.sum((2, 3)) > 0).sum(), 1)


def _summary(psf, stars, stamps, tolerance, settings, oversampling, half):
    """Chi2 and the like of all groups."""
    n_good_all, n_all = _totals(stamps)

    def of_group(group):
        stars, stamps, tolerance = group
        found, residual, weight, clipped, misfit = _look(psf, stars, stamps, tolerance, settings, oversampling, half)
        _, normal, _ = _star_normal(found, weight, stamps, stars, settings, n_good_all, n_all)
        alive = stamps.good.sum((1, 2)) > 0
        held = jnp.sum(jnp.where(alive, stars.sky**2 / _sky_variance(stamps), 0))
        return (weight * residual**2).sum((1, 2)), (weight > 0).sum((1, 2)), clipped.sum((1, 2)), misfit, normal, held

    chi2, n_good, n_clipped, misfit, normal, held = jax.lax.map(of_group, (stars, stamps, tolerance))
    loss = 0.5 * chi2.sum() / jnp.maximum(n_good.sum(), 1) + settings.a_sky * held.sum() / n_all
    image = psf[0] / psf[0].sum()  # or a smaller P with larger fluxes would vary less
    loss = loss + settings.a_tv * total_variation(image, ROUNDING * image.max())
    return Summary(chi2, n_good, n_clipped, misfit, normal, loss)


@partial(jax.jit, static_argnames=("oversampling", "half"))
def star_round(psf, stars, stamps, tolerance, settings, *, oversampling, half, steps):
    """
    Fit flux, position and sky of every star to a given PSF.

    Parameters
    ----------
    psf : (m, N, N) array
        Coefficients of the PSF.
    stars : Stars
    stamps : Stamps
    tolerance : (g, b) array
        Fraction by which a star may differ from its model without being clipped.
    settings : Settings
    oversampling, half, steps : int
        Fine pixels per data pixel, half side of a star's core, number of updates.

    Returns
    -------
    Stars, Summary
    """
    n_good_all, n_all = _totals(stamps)

    def of_group(group):
        stars, stamps, tolerance = group

        def once(_, stars):
            return _update(psf, stars, stamps, tolerance, settings, oversampling, half, n_good_all, n_all)

        return jax.lax.fori_loop(0, steps, once, stars)

    stars = jax.lax.map(of_group, (stars, stamps, tolerance))
    return stars, _summary(psf, stars, stamps, tolerance, settings, oversampling, half)


def _prepare(psf, stars, stamps, tolerance, settings, oversampling, half, n_good_all, n_all):
    """Make what conjugate gradients need of a group: its matrices, weights and the columns projected out."""
    size, fine = stamps.data.shape[-1], psf.shape[-1]
    found, residual, weight, _, _ = _look(psf, stars, stamps, tolerance, settings, oversampling, half)
    columns, normal, _ = _star_normal(found, weight, stamps, stars, settings, n_good_all, n_all)
    root = jnp.sqrt(weight)
    factor, scale = _whitened(normal)
    columns = columns * root[:, None] / scale[:, :, None, None]
    eye = jnp.broadcast_to(jnp.eye(4, dtype=factor.dtype), factor.shape)
    inverse = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    white = jnp.einsum("bac,bcij->baij", inverse, columns, precision=HIGHEST)
    x, y = (shift_matrices(shift, size, fine, oversampling, jnp) for shift in (stars.dx, stars.dy))
    flux = stars.flux * (stamps.good.sum((1, 2)) > 0)
    x1, y1 = (coverage_matrices(shift, size, fine, oversampling, jnp) for shift in (stars.dx, stars.dy))
    diagonal = jnp.einsum("bij,bik,bkl->bjl", y1, weight * (flux**2)[:, None, None], x1, precision=HIGHEST)
    diagonal = jnp.einsum("bm,bjl->mjl", stamps.basis**2, diagonal, precision=HIGHEST)
    return (x, y, root * flux[:, None, None], white, stamps.basis, root * residual), diagonal


def _project(white, image):
    """Take out of ``image`` what the stars' own parameters can explain."""
    along = jnp.einsum("baij,bij->ba", white, image, precision=HIGHEST)
    return image - jnp.einsum("baij,ba->bij", white, along, precision=HIGHEST)


def _forward(pieces, step):
    """Change of the weighted model of a group when P changes by ``step``."""
    x, y, root, white, basis, _ = pieces
    change = step if step.shape[0] == 1 else jnp.einsum("bm,mij->bij", basis, step, precision=HIGHEST)
    model = jnp.matmul(jnp.matmul(y, change, precision=HIGHEST), x.swapaxes(1, 2), precision=HIGHEST)
    return _project(white, root * model)


def _backward(pieces, image):
    """Transpose of the change of the weighted model, for an image that is projected already."""
    x, y, root, _, basis, _ = pieces
    half = jnp.matmul(y.swapaxes(1, 2), root * image, precision=HIGHEST)
    if basis.shape[1] == 1:  # one PSF for all: the sum over stars is part of the product
        return jnp.einsum("bjk,bkl->jl", half, x, precision=HIGHEST)[None]
    return jnp.einsum("bm,bjl->mjl", basis, jnp.matmul(half, x, precision=HIGHEST), precision=HIGHEST)


@partial(jax.jit, static_argnames=("oversampling", "half", "regular"))
def psf_round(psf, stars, stamps, tolerance, settings, prior, n_good, *, oversampling, half, steps, regular):
    """
    Improve P by ``steps`` of conjugate gradients, with the stars free to follow.

    Parameters
    ----------
    psf : (m, N, N) array
        Coefficients of the PSF.
    stars : Stars
    stamps : Stamps
    tolerance : (g, b) array
        Fraction by which a star may differ from its model without being clipped.
    settings : Settings
    prior : Prior
    n_good : int
        Good pixels of all stars, for the weight of the penalty.
    oversampling, half, steps : int
        Fine pixels per data pixel, half side of a star's core, number of steps.
    regular : bool
        Whether the prior counts; without it none of its arithmetic is done.

    Returns
    -------
    psf : (m, N, N) array
    diagonal : (m, N, N) array
        Of the normal matrix of P.
    """
    n_good_all, n_all = _totals(stamps)
    pieces, diagonal = jax.lax.map(
        lambda group: _prepare(psf, *group, settings, oversampling, half, n_good_all, n_all), (stars, stamps, tolerance)
    )
    diagonal = diagonal.sum(0)
    diagonal = jnp.maximum(diagonal, 1e-6 * jnp.median(diagonal, axis=(1, 2), keepdims=True) + 1e-30)
    rounding = ROUNDING * psf[0].max()
    root = jnp.sqrt(diagonal)

    def filtered(image, response):
        return jnp.fft.irfft2(response * jnp.fft.rfft2(image), s=image.shape[1:])

    varied = settings.a_tv * n_good * variation_diagonal(psf[0], rounding) if regular else 0

    def penalty(step):
        """Curvature of the prior and of the total variation."""
        if not regular:
            return jnp.zeros_like(step)
        given = root * filtered(root * step, prior.strength) + prior.shrink * step
        held = settings.a_tv * n_good * variation_curvature(step[0], psf[0], rounding)
        # Fluxes make up for any scale of P and skies for any level, so the penalty would take both to nothing: they
        # are held, by a weight far above all the others.
        own = psf[0] / jnp.sqrt(jnp.sum(psf[0] ** 2))
        both = 10 * diagonal.max() * (step[0].mean() + own * jnp.sum(own * step[0]))
        return given.at[0].add(held + jnp.where(settings.a_tv > 0, both, 0))

    def precondition(step):
        if not regular:
            return step / diagonal
        step = step / (1 + (prior.shrink + varied) / diagonal)
        return filtered(step / root, 1 / (prior.spectrum + prior.strength)) / root

    def over_groups(of_group):
        def add(total, piece):
            return total + of_group(piece), None

        return jax.lax.scan(add, jnp.zeros_like(psf), pieces)[0]

    def normal(step):
        return over_groups(lambda piece: _backward(piece, _forward(piece, step))) + penalty(step)

    right = over_groups(lambda piece: _backward(piece, _project(piece[3], piece[5])))
    if regular:
        pull = root * filtered(root * (prior.start - psf), prior.strength) - prior.shrink * psf
        held = settings.a_tv * n_good * variation_curvature(psf[0], psf[0], rounding)
        right = right + pull.at[0].add(-held)

    def once(_, state):
        x, r, z, p, rz = state
        q = normal(p)
        curved = jnp.vdot(p, q)
        alpha = jnp.where(curved > 0, rz / jnp.where(curved > 0, curved, 1), 0)
        x, r = x + alpha * p, r - alpha * q
        z = precondition(r)
        new = jnp.vdot(r, z)
        beta = jnp.where(rz > 0, new / jnp.where(rz > 0, rz, 1), 0)
        return x, r, z, z + beta * p, new

    z = precondition(right)
    state = (jnp.zeros_like(psf), right, z, z, jnp.vdot(right, z))
    step = jax.lax.fori_loop(0, steps, once, state)[0]
    return psf + step, diagonal
