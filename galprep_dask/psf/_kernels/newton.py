"""The default solver: Gauss-Newton on all stars together, the stars' own parameters eliminated.

A round looks at all stamps once: residuals, weights and clipped pixels from the model, and the derivatives of every
star in its flux, position and sky. It improves P by preconditioned conjugate gradients on the normal equations in which
the stars' own parameters have been projected out, and moves the stars along with it. So all are solved at once: what a
shift, a change of flux or of sky of a star could explain as well is left to it. Without conjugate gradients a round is
a step of the stars alone.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from galprep_dask.psf._kernels.loss import (
    HIGHEST,
    ROUNDING,
    Stars,
    look,
    mixed,
    profiles,
    sky_variance,
    total_variation,
    variation_curvature,
    variation_diagonal,
    variation_gradient,
)  # fmt: skip
from galprep_dask.psf._kernels.parts import (
    QUICKLY,
    Matrices,
    joined,
    parts_of,
    refined,
    rendered,
    spread,
    transposed,
)

__all__ = ["Round", "Summary", "filtered", "newton_round", "prior_curvature", "star_round", "start_curvature"]

#: Largest step of a position in one round, data pixels.
LONGEST_STEP = 0.5


class Summary(NamedTuple):
    """What a round has seen before it moved anything."""

    chi2: jax.Array  #: (g, b) sum of (residual / sigma)^2 over good pixels
    n_good: jax.Array  #: (g, b)
    n_clipped: jax.Array  #: (g, b)
    misfit: jax.Array  #: (g, b) fractional disagreement of the core with the model, noise taken off
    normal: jax.Array  #: (g, b, 4, 4) curvature in flux, dx, dy, sky
    diagonal: jax.Array  #: (m, N, N) of the normal matrix of P
    loss: jax.Array
    promise: jax.Array  #: what chi2 would fall by, about


class Round(NamedTuple):
    """Where a round has moved to, and what it saw."""

    psf: jax.Array
    stars: Stars
    summary: Summary


class _Pieces(NamedTuple):
    """What conjugate gradients need of a group of stars."""

    matrices: Matrices
    root: jax.Array  #: (b, n, n) flux / sigma of stars that P is fitted to, else 0
    columns: tuple  #: of 4 (b, n, n) arrays: model over sigma in the star's flux, dx, dy and sky
    factor: jax.Array  #: (b, 4, 4) that makes an orthonormal basis of them, of what they can explain
    basis: jax.Array  #: (b, m)
    residual: jax.Array  #: (b, n, n) over sigma, less what the star's own parameters explain
    along: jax.Array  #: (b, 4) what they explain


def _star_normal(found, root, stamps, stars, settings, sky_weight):
    """Columns of the model over sigma in flux, dx, dy and sky, their normal matrix, and how the sky is held."""
    profile, in_x, in_y = (root * part for part in found)
    # A star that has vanished keeps a slope, so that its matrix can be solved.
    noise = 1 / jnp.sqrt(jnp.sum(profile**2, (1, 2)) + 1e-30)
    flux = jnp.maximum(stars.flux, jnp.minimum(noise, 1e15))[:, None, None]
    columns = profile, flux * in_x, flux * in_y, settings.free_sky * root
    products = [[jnp.sum(a * b, (1, 2)) for b in columns[: i + 1]] for i, a in enumerate(columns)]
    normal = jnp.stack([jnp.stack([products[max(i, j)][min(i, j)] for j in range(4)], -1) for i in range(4)], -2)
    held = sky_weight / sky_variance(stamps)
    extra = jnp.zeros((4, 4), normal.dtype).at[3, 3].set(1)
    normal = normal + (held * settings.free_sky + (1 - settings.free_sky))[:, None, None] * extra
    return columns, normal, held


def _whitened(normal):
    """Matrix that makes columns of this normal matrix orthonormal: the inverse of its Cholesky factor."""
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(normal, axis1=1, axis2=2), 1e-30))
    eye = jnp.eye(4, dtype=normal.dtype)
    matrix = normal / (scale[:, :, None] * scale[:, None, :]) * (1 - eye) + (1 + 1e-6) * eye
    factor = jnp.linalg.cholesky(matrix)
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.broadcast_to(eye, factor.shape), lower=True)
    return inverse / scale[:, None, :]


def _prepare(parts, group, settings, sky_weight, fine, oversampling, half):
    """Look at a group: what conjugate gradients need of it, its part of the diagonal, and what it tells."""
    fitted, tolerance, stars, stamps = group
    found, matrices, residual, weight, clipped, misfit = look(
        parts, stars, stamps, tolerance, settings, fine, oversampling, half
    )
    root = jnp.sqrt(weight)
    columns, normal, held = _star_normal(found, root, stamps, stars, settings, sky_weight)
    factor = _whitened(normal)
    held_sky = -held * stars.sky * settings.free_sky
    along = _along(columns, factor, root * residual) + factor[:, :, 3] * held_sky[:, None]
    flux = jnp.where(fitted > 0, stars.flux, 0)
    squared = partial(_sum_over_stars, stamps.basis**2)
    diagonal = spread(weight * (flux**2)[:, None, None], stars.dx, stars.dy, fine, oversampling, squared)
    pieces = _Pieces(
        matrices, root * flux[:, None, None], columns, factor, stamps.basis,
        _unexplained(columns, factor, root * residual, along), along,
    )  # fmt: skip
    chi2 = (weight * residual**2).sum((1, 2))
    sky_loss = jnp.sum(jnp.where(fitted > 0, stars.sky**2 / sky_variance(stamps), 0))
    told = chi2, (weight > 0).sum((1, 2)), clipped.sum((1, 2)), misfit, normal
    return pieces, diagonal, told, sky_loss


def _moved(stars, stamps, factor, along, settings):
    """Stars where their own parameters explain ``along``, no further than LONGEST_STEP."""
    own = jnp.einsum("bca,bc->ba", factor, along, precision=HIGHEST)
    far = jnp.maximum(jnp.abs(own[:, 1:3]).max(1) / LONGEST_STEP, 1)
    limit = (stamps.data.shape[-1] - 1) / 2
    new = Stars(
        stars.flux + own[:, 0], jnp.clip(stars.dx + own[:, 1] / far, -limit, limit),
        jnp.clip(stars.dy + own[:, 2] / far, -limit, limit), stars.sky + own[:, 3] * settings.free_sky,
    )  # fmt: skip
    seen = stamps.good.sum((1, 2)) > 0
    return Stars(*(jnp.where(seen, a, b) for a, b in zip(new, stars, strict=True)))


def filtered(image, response):
    """Multiply the frequencies of (m, N, N) images."""
    return jnp.fft.irfft2(response * jnp.fft.rfft2(image), s=image.shape[1:])


def start_curvature(step, prior, root):
    """Curvature of what draws P to its start, in the core and beyond it, times ``step``."""
    zones = [
        window * filtered(window * root * step, held) for window, held in zip(prior.window, prior.strength, strict=True)
    ]
    return root * sum(zones)


def prior_curvature(step, prior, root):
    """Curvature of what draws coefficients to zero, times ``step``."""
    smooth = root * filtered(root * step, prior.smooth) if prior.smooth.shape[-1] > 1 else prior.smooth * step
    return smooth + prior.shrink * step


def _slopes(image):
    """Give the derivatives of an image, which shifts are made of."""
    return tuple(0.5 * (jnp.roll(image, -1, axis) - jnp.roll(image, 1, axis)) for axis in (0, 1))


def _orthonormal(images):
    """Orthonormal basis of what images span; one that is zero stays zero."""
    basis = []
    for image in images:
        for _ in range(2):  # what rounding has left is taken off again
            image = image - sum((own * jnp.sum(own * image) for own in basis), jnp.zeros_like(image))
        length2 = jnp.sum(image**2)
        basis.append(image * jnp.where(length2 > 0, jax.lax.rsqrt(jnp.maximum(length2, 1e-30)), 0))
    return jnp.stack(basis)


def _of_groups(function, groups):
    """Map over groups of stars, one at a time; a single one is not wrapped into a loop."""
    if jax.tree.leaves(groups)[0].shape[0] == 1:
        return jax.tree.map(lambda part: part[None], function(jax.tree.map(lambda part: part[0], groups)))
    return jax.lax.map(function, groups)


def _summed(function, groups, start):
    """Sum of ``function`` over groups of stars."""
    if jax.tree.leaves(groups)[0].shape[0] == 1:
        return function(jax.tree.map(lambda part: part[0], groups))
    add = lambda total, group: (jax.tree.map(jnp.add, total, function(group)), None)  # noqa: E731
    return jax.lax.scan(add, start, groups)[0]


def _along(columns, factor, image):
    """Components of an image over sigma in the orthonormal basis that ``factor`` makes of the columns."""
    sums = jnp.stack([jnp.sum(column * image, (1, 2)) for column in columns], -1)
    return jnp.einsum("bac,bc->ba", factor, sums, precision=HIGHEST)


def _unexplained(columns, factor, image, along):
    """Image over sigma without these components."""
    own = jnp.einsum("bca,bc->ba", factor, along, precision=HIGHEST)
    return image - sum(own[:, i, None, None] * column for i, column in enumerate(columns))


def _change(pieces, parts):
    """Change of the weighted model of a group when the parts of P change by these."""
    return pieces.root * rendered(mixed(parts, pieces.basis), pieces.matrices)


def _sum_over_stars(basis, half, x):
    """Sum of ``half`` times ``x`` over stars, for every coefficient."""
    if basis.shape[1] == 1:  # one PSF for all: the sum over stars is part of the product
        count, rows, columns = half.shape
        flat = half.swapaxes(0, 1).reshape(rows, count * columns)
        return jnp.matmul(flat, x.reshape(count * columns, -1), precision=HIGHEST)[None]
    return jnp.einsum("bm,bjl->mjl", basis, jnp.matmul(half, x, precision=HIGHEST), precision=HIGHEST)


def _back(pieces, image):
    """Transpose of the change of the weighted model: both parts of P."""
    return transposed(pieces.root * image, pieces.matrices, partial(_sum_over_stars, pieces.basis))


@partial(jax.jit, static_argnames=("oversampling", "half", "regular"), compiler_options=QUICKLY)
def newton_round(
    psf, stars, stamps, fitted, tolerance, settings, prior, *, oversampling, half, regular, steps, left, enough
):  # fmt: skip
    """
    Look at all stars, improve P by at most ``steps`` of conjugate gradients, and move the stars with it.

    Parameters
    ----------
    psf : (m, N, N) array
        Coefficients of the PSF.
    stars : Stars
    stamps : Stamps
    fitted : (g, b) array
        1 for stars that P is fitted to; the others follow it with their own parameters.
    tolerance : (g, b) array
        Fraction by which a star may differ from its model without being clipped.
    settings : Settings
    prior : Prior or None
        None where nothing regularises P: none of its arithmetic is done.
    oversampling, half : int
        Fine pixels per data pixel, half side of a star's core.
    regular : bool
        Whether the prior counts.
    steps : int
        0 moves the stars alone.
    left : float
        Conjugate gradients stop when they have gained all but this fraction of what there is to gain.
    enough : float
        They stop when chi2 can fall by no more than this.

    Returns
    -------
    Round
    """
    on = (fitted > 0)[:, :, None, None]
    n_good_all = jnp.maximum((stamps.good * on).sum(), 1)
    n_all = jnp.maximum((fitted > 0).sum(), 1)
    sky_weight = 2 * settings.a_sky * n_good_all / n_all
    size, fine = stamps.data.shape[-1], psf.shape[-1]
    parts = partial(parts_of, size=size, oversampling=oversampling)
    join = partial(joined, size=size, fine=fine, oversampling=oversampling)
    now = parts(psf)
    pieces, diagonal, told, sky_loss = _of_groups(
        lambda group: _prepare(now, group, settings, sky_weight, fine, oversampling, half),
        (fitted, tolerance, stars, stamps),
    )
    diagonal = refined(diagonal.sum(0), fine, oversampling)
    diagonal = jnp.maximum(diagonal, 1e-6 * diagonal.mean((1, 2), keepdims=True) + 1e-30)
    chi2, n_good = told[:2]
    n_used = jnp.maximum(jnp.where(fitted > 0, n_good, 0).sum(), 1)
    rounding = ROUNDING * psf[0].max()
    root = jnp.sqrt(diagonal)

    # The stars' own parameters make up for any scale and shift of P, free skies for its level: no step is taken there,
    # where the prior and the total variation would pull against nothing.
    level = jnp.where((settings.free_sky > 0) & (settings.a_sky == 0), 1, 0)
    idle = _orthonormal((psf[0], *_slopes(psf[0]), level * jnp.ones_like(psf[0]))) if regular else None

    def projected(step):
        if not regular:
            return step
        return step.at[0].add(-jnp.tensordot(jnp.tensordot(idle, step[0], 2), idle, 1))

    def penalty(step):
        """Curvature of the prior and of the total variation."""
        if not regular:
            return jnp.zeros_like(step)
        given = start_curvature(step, prior, root) + prior_curvature(step, prior, root)
        held = settings.a_tv * n_used * variation_curvature(step[0], psf[0], rounding)
        return given.at[0].add(held)

    varied = settings.a_tv * n_used * variation_diagonal(psf[0], rounding) if regular else 0

    def precondition(step):
        if not regular:
            return step / diagonal
        step = step / (1 + (prior.shrink + varied) / diagonal)
        step = sum(
            window * filtered(window * step / root, 1 / (prior.spectrum + held + prior.smooth))
            for window, held in zip(prior.window, prior.strength, strict=True)
        )
        return projected(step / root)

    none = jax.tree.map(jnp.zeros_like, now)

    def normal(step):
        changed = parts(step)

        def of_group(piece):
            image = _change(piece, changed)
            own = _along(piece.columns, piece.factor, image)
            return _back(piece, _unexplained(piece.columns, piece.factor, image, own))

        return projected(join(_summed(of_group, pieces, none)) + penalty(step))

    right = join(_summed(lambda piece: _back(piece, piece.residual), pieces, none))
    if regular:
        off = prior.start - psf
        pull = start_curvature(off, prior, root) + prior_curvature(off, prior, root)
        held = settings.a_tv * n_used * variation_gradient(psf[0], rounding)
        right = right + pull.at[0].add(-held)
        right = projected(right)

    def going_on(state):
        number, _, _, _, rz = state
        return (number < steps) & (rz > left * first) & (rz > enough)

    def once(state):
        number, x, r, p, rz = state
        q = normal(p)
        curved = jnp.vdot(p, q)
        alpha = jnp.where(curved > 0, rz / jnp.where(curved > 0, curved, 1), 0)
        x, r = x + alpha * p, r - alpha * q
        z = precondition(r)
        new = jnp.vdot(r, z)
        return number + 1, x, r, z + new / jnp.maximum(rz, 1e-30) * p, new

    z = precondition(right)
    first = jnp.vdot(right, z)
    step = jax.lax.while_loop(going_on, once, (0, jnp.zeros_like(psf), right, z, first))[1]
    changed = parts(step)

    def moved(group):
        piece, stars, stamps = group
        along = piece.along - _along(piece.columns, piece.factor, _change(piece, changed))
        return _moved(stars, stamps, piece.factor, along, settings)

    loss = 0.5 * jnp.where(fitted > 0, chi2, 0).sum() / n_used + settings.a_sky * sky_loss.sum() / n_all
    image = psf[0] / psf[0].sum()  # or a smaller P with larger fluxes would vary less
    loss = loss + settings.a_tv * total_variation(image, ROUNDING * image.max())
    own = jnp.where((fitted > 0)[:, :, None], pieces.along, 0)
    summary = Summary(*told, diagonal, loss, first + jnp.sum(own**2))
    return Round(psf + step, _of_groups(moved, (pieces, stars, stamps)), summary)


@partial(jax.jit, static_argnames=("oversampling", "half"), compiler_options=QUICKLY)
def star_round(psf, stars, stamps, tolerance, settings, *, oversampling, half):
    """
    Look at all stars and move them, with P as it is.

    Returns
    -------
    stars : Stars
        Where they have moved to.
    chi2, n_good, n_clipped, misfit, normal : (g, b, ...) arrays
        As in :class:`Summary`, before they moved.
    light : (g, b, n, n) array
        Stars of flux 1, before they moved.
    """
    good = stamps.good.sum((2, 3))
    sky_weight = 2 * settings.a_sky * good.sum() / jnp.maximum((good > 0).sum(), 1)

    size, fine = stamps.data.shape[-1], psf.shape[-1]
    parts = parts_of(psf, size, oversampling)

    def of_group(group):
        pieces, _, told, _ = _prepare(parts, group, settings, sky_weight, fine, oversampling, half)
        _, _, stars, stamps = group
        light = profiles(parts, stamps.basis, stars.dx, stars.dy, size, fine, oversampling)
        return _moved(stars, stamps, pieces.factor, pieces.along, settings), told, light

    return _of_groups(of_group, (jnp.ones_like(tolerance), tolerance, stars, stamps))
