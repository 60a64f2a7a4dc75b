"""Solvers that only need the gradient of the loss: Adam and L-BFGS of optax."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from galprep_dask.psf._kernels.loss import ROUNDING, Stars, look, profiles, sky_variance, total_variation
from galprep_dask.psf._kernels.newton import filtered, prior_curvature, start_curvature
from galprep_dask.psf._kernels.parts import QUICKLY, parts_of

__all__ = ["Units", "descend_round", "initial_state"]


class Units(NamedTuple):
    """Where the variables of a descent begin and what they are measured in: P is ``origin`` plus what they say."""

    origin: jax.Array  #: (m, N, N)
    pixel: jax.Array  #: (m, N, N) or (1, 1, 1)
    response: jax.Array  #: (m, N, N // 2 + 1) by which frequencies are multiplied, or one number for none
    flux: jax.Array  #: (g, b)
    shift: jax.Array  #: (g, b) or (1, 1)
    sky: jax.Array  #: (g, b)


@lru_cache(maxsize=8)
def _optimiser(solver, schedule, learning_rate, num_steps):
    """Optimiser, built once: it is part of what a compiled function is known by."""
    if solver == "lbfgs":
        return optax.lbfgs(memory_size=20)
    if schedule == "cosine":
        return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    return optax.adam(learning_rate)


def _placed(values, units):
    """P and the stars that the variables stand for."""
    change = values["psf"] if units.response.ndim == 0 else filtered(values["psf"], units.response)
    stars = Stars(
        values["flux"] * units.flux, values["dx"] * units.shift, values["dy"] * units.shift, values["sky"] * units.sky
    )
    return units.origin + units.pixel * change, stars


def _loss(values, units, stamps, weight, prior, root, settings, oversampling):
    psf, stars = _placed(values, units)
    size, fine = stamps.data.shape[-1], psf.shape[-1]
    parts = parts_of(psf, size, oversampling)

    def of_group(group):
        stars, stamps, weight = group
        light = profiles(parts, stamps.basis, stars.dx, stars.dy, size, fine, oversampling)
        residual = stamps.data - stars.flux[:, None, None] * light - stars.sky[:, None, None]
        alive = stamps.good.sum((1, 2)) > 0
        held = jnp.sum(jnp.where(alive, stars.sky**2 / sky_variance(stamps), 0))
        return jnp.sum(weight * residual**2), held

    chi2, held = jax.lax.map(of_group, (stars, stamps, weight))
    n_good = jnp.maximum((weight > 0).sum(), 1)
    n_stars = jnp.maximum((stamps.good.sum((2, 3)) > 0).sum(), 1)
    loss = 0.5 * chi2.sum() / n_good + settings.a_sky * held.sum() / n_stars
    image = psf[0] / psf[0].sum()
    loss = loss + settings.a_tv * total_variation(image, ROUNDING * jax.lax.stop_gradient(image.max()))
    if prior is None:
        return loss
    from_start = psf - prior.start
    drawn = start_curvature(from_start, prior, root) + prior_curvature(from_start, prior, root)
    return loss + 0.5 / n_good * jnp.vdot(from_start, drawn)


def initial_state(values, solver, schedule, learning_rate, num_steps):
    """State of an optimiser that has not begun."""
    return _optimiser(solver, schedule, learning_rate, num_steps).init(values)


@partial(
    jax.jit,
    static_argnames=(
        "oversampling", "half", "solver", "schedule", "learning_rate", "num_steps", "free_sky"
    ), compiler_options=QUICKLY,
)  # fmt: skip
def descend_round(
    values, state, units, stamps, fitted, tolerance, prior, diagonal, settings, *, oversampling, half, steps, solver,
    schedule, learning_rate, num_steps, free_sky,
):  # fmt: skip
    """
    Take ``steps`` steps with weights from the model at their beginning.

    Parameters
    ----------
    values : dict
        psf, flux, dx, dy and sky, in ``units``.
    state : optimiser state
    units : Units
    stamps : Stamps
    fitted, tolerance : (g, b) arrays
    prior : Prior or None
    diagonal : (m, N, N) array
        Of the normal matrix of P, the unit of the prior.
    settings : Settings
    oversampling, half, steps : int
    solver, schedule, learning_rate, num_steps, free_sky
        What is minimised with, and whether skies move.

    Returns
    -------
    values, state, psf, stars
    """
    optimiser = _optimiser(solver, schedule, learning_rate, num_steps)
    stamps = stamps._replace(good=stamps.good * (fitted > 0)[:, :, None, None])
    psf, stars = _placed(values, units)
    parts, fine = parts_of(psf, stamps.data.shape[-1], oversampling), psf.shape[-1]
    weight = jax.lax.map(
        lambda group: look(parts, *group, settings, fine, oversampling, half)[3], (stars, stamps, tolerance)
    )  # fmt: skip
    root = jnp.sqrt(diagonal)

    def loss_of(values):
        held = values if free_sky else {**values, "sky": jax.lax.stop_gradient(values["sky"])}
        return _loss(held, units, stamps, weight, prior, root, settings, oversampling)

    value_and_grad = jax.value_and_grad(loss_of)

    def once(_, carried):
        values, state = carried
        loss, slope = value_and_grad(values)
        if solver == "lbfgs":
            updates, state = optimiser.update(slope, state, values, value=loss, grad=slope, value_fn=loss_of)
        else:
            updates, state = optimiser.update(slope, state, values)
        return optax.apply_updates(values, updates), state

    values, state = jax.lax.fori_loop(0, steps, once, (values, state))
    return values, state, *_placed(values, units)
