"""Solvers that only need the gradient of the loss: Adam and L-BFGS of optax."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import optax

from galprep_dask.psf._kernels.loss import Stars, profiles, total_variation
from galprep_dask.psf._kernels.newton import ROUNDING, _look, _sky_variance, _totals

__all__ = ["descend_round", "initial_state"]


@lru_cache(maxsize=8)
def _optimiser(solver, schedule, learning_rate, num_steps):
    """Optimiser, built once: it is part of what a compiled function is known by."""
    if solver == "lbfgs":
        return optax.lbfgs(memory_size=20)
    if schedule == "cosine":
        return optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    return optax.adam(learning_rate)


def _stars(values, scale):
    """Stars of the variables that are descended in: fluxes relative to a first guess, skies to the noise."""
    return Stars(values["flux"] * scale[0], values["dx"], values["dy"], values["sky"] * scale[1])


def _weights(psf, stars, stamps, tolerance, settings, oversampling, half):
    def of_group(group):
        stars, stamps, tolerance = group
        return _look(psf, stars, stamps, tolerance, settings, oversampling, half, derivative=False)[2]

    return jax.lax.map(of_group, (stars, stamps, tolerance))


def _loss(values, scale, stamps, weight, settings, oversampling):
    stars, psf, size = _stars(values, scale), values["psf"], stamps.data.shape[-1]

    def of_group(group):
        stars, stamps, weight = group
        light = profiles(psf, stamps.basis, stars.dx, stars.dy, size, oversampling)
        residual = stamps.data - stars.flux[:, None, None] * light - stars.sky[:, None, None]
        alive = stamps.good.sum((1, 2)) > 0
        held = jnp.sum(jnp.where(alive, stars.sky**2 / _sky_variance(stamps), 0))
        return jnp.sum(weight * residual**2), held

    chi2, held = jax.lax.map(of_group, (stars, stamps, weight))
    n_good = jnp.maximum((weight > 0).sum(), 1)
    loss = 0.5 * chi2.sum() / n_good + settings.a_sky * held.sum() / _totals(stamps)[1]
    image = psf[0] / psf[0].sum()
    return loss + settings.a_tv * total_variation(image, ROUNDING * jax.lax.stop_gradient(image.max()))


def initial_state(values, solver, schedule, learning_rate, num_steps):
    """State of an optimiser that has not begun."""
    return _optimiser(solver, schedule, learning_rate, num_steps).init(values)


@partial(
    jax.jit,
    static_argnames=(
        "oversampling", "half", "steps", "solver", "schedule", "learning_rate", "num_steps", "free_sky"
    ),
)  # fmt: skip
def descend_round(
    values, state, scale, stamps, tolerance, settings, *, oversampling, half, steps, solver, schedule, learning_rate,
    num_steps, free_sky,
):  # fmt: skip
    """
    Take ``steps`` steps with weights from the model at their beginning.

    Parameters
    ----------
    values : dict
        psf, flux, dx, dy and sky.
    state : optimiser state
    scale : pair of (g, b) arrays
        Units of flux and sky.
    stamps : Stamps
    tolerance : (g, b) array
    settings : Settings
    oversampling, half, steps : int
    solver, schedule, learning_rate, num_steps, free_sky
        What is minimised with, and whether skies move.

    Returns
    -------
    values, state, loss
    """
    optimiser = _optimiser(solver, schedule, learning_rate, num_steps)
    weight = _weights(values["psf"], _stars(values, scale), stamps, tolerance, settings, oversampling, half)

    def loss_of(values):
        held = values if free_sky else {**values, "sky": jax.lax.stop_gradient(values["sky"])}
        return _loss(held, scale, stamps, weight, settings, oversampling)

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
    return values, state, loss_of(values)
