"""Adam and L-BFGS: many cheap steps in rounds, with weights and clipped pixels renewed between them."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf.solve import TOLERANCES, Batch, Solution, _settings, fit_stars

__all__ = ["descend"]

#: Steps that are taken when nothing is said, and rounds that they are split into.
STEPS = {"adam": 80000, "lbfgs": 1000}
ROUNDS = 20
#: Settled: the loss falls by less than this, relative, in a round.
SETTLED = 1e-6


def descend(
    batch: Batch, solution: Solution, alive, *, solver: str = "adam", num_steps: int | None = None,
    learning_rate: float = 2e-5, schedule: str = "constant", warm: bool = False,
) -> Solution:  # fmt: skip
    """
    Minimise the loss over P and all stars that are ``alive`` with a solver of optax.

    Parameters
    ----------
    batch : Batch
    solution : Solution
        Where to start; changed in place.
    alive : (k,) bool array
    solver : {"adam", "lbfgs"}
    num_steps : int, optional
    learning_rate : float
        Of Adam.
    schedule : {"constant", "cosine"}
        How the learning rate of Adam goes on.
    warm : bool
        The start is near already: a quarter of the steps.

    Returns
    -------
    Solution
    """
    import jax.numpy as jnp

    from galprep_dask.psf._kernels.first_order import descend_round, initial_state

    problem = batch.problem
    num_steps = num_steps or STEPS[solver]
    if warm:
        num_steps = max(num_steps // 4, 1)
    # Fluxes and positions start from their best values for the first P, as any careful user would have them do.
    fit_stars(batch, solution, alive, steps=4, floor=TOLERANCES[0])
    noise = np.sqrt(np.median(problem.variance, axis=(1, 2)))
    scale = batch.pad(np.maximum(np.abs(solution.flux), noise), 1.0), batch.pad(noise, 1.0)
    stars = batch.stars(solution)
    values = {
        "psf": jnp.asarray(solution.psf, problem.dtype), "flux": stars.flux / scale[0], "dx": stars.dx,
        "dy": stars.dy, "sky": stars.sky / scale[1],
    }  # fmt: skip
    chosen = {"solver": solver, "schedule": schedule, "learning_rate": learning_rate, "num_steps": num_steps}
    state = initial_state(values, **chosen)
    stamps, history = batch.stamps(alive), []
    rounds = min(ROUNDS, num_steps)
    for number in range(rounds):
        steps = num_steps // rounds
        floor = TOLERANCES[min(number, len(TOLERANCES) - 1)]
        tolerance = batch.pad(np.zeros(batch.count) if solution.misfit is None else solution.misfit)
        values, state, loss = descend_round(
            values, state, scale, stamps, tolerance, _settings(problem, floor), oversampling=problem.oversampling,
            half=problem.core, steps=steps, free_sky=problem.free_sky, **chosen,
        )  # fmt: skip
        if solver == "lbfgs":  # the weights are new, and so is the function whose curvature it remembers
            state = initial_state(values, **chosen)
        history.append(float(loss))
        solution.psf = np.array(values["psf"], np.float64)
        solution.flux, solution.sky = (
            batch.unpad(values[name] * unit) for name, unit in (("flux", scale[0]), ("sky", scale[1]))
        )
        solution.dx, solution.dy = batch.unpad(values["dx"]), batch.unpad(values["dy"])
        settled = number >= len(TOLERANCES) and abs(history[-2] - history[-1]) < SETTLED * history[-1]
        if settled:
            break
    _look_once(batch, solution, alive)
    solution.loss_history = solution.loss_history + history
    solution.converged = settled
    return solution


def _look_once(batch, solution, alive):
    """Chi2, curvature and the like where the solver ended, without moving anything."""
    import jax.numpy as jnp

    from galprep_dask.psf._kernels.newton import psf_round, star_round

    problem = batch.problem
    given = (
        jnp.asarray(solution.psf, problem.dtype), batch.stars(solution), batch.stamps(alive),
        batch.pad(np.zeros(batch.count)), _settings(problem, TOLERANCES[-1]),
    )  # fmt: skip
    known = {"oversampling": problem.oversampling, "half": problem.core, "steps": 0}
    stars, summary = star_round(*given, **known)
    _, diagonal = psf_round(*given, None, summary.n_good.sum(), regular=False, **known)
    batch.take(solution, stars, summary)
    solution.diagonal = np.asarray(diagonal, np.float64)
