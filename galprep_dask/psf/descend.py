"""Adam and L-BFGS: many cheap steps in rounds, with weights and clipped pixels renewed between them."""

from __future__ import annotations

import numpy as np

from galprep_dask.psf.solve import SETTLED, TOLERANCES, Batch, Rounds, Solution, follow, settings_of

__all__ = ["descend"]

#: Steps that are taken when nothing is said, and rounds that they are split into.
STEPS = {"adam": 80000, "lbfgs": 1000}
ROUNDS = 20
#: A solver of gradients slows down where it is near, so it is held to be settled later than Newton's method.
NEARER = 0.1


def descend(
    batch: Batch, solution: Solution, alive, prior=None, *, solver: str = "adam", num_steps: int | None = None,
    learning_rate: float = 2e-5, schedule: str = "constant", warm: bool = False,
) -> Solution:  # fmt: skip
    """
    Minimise the loss over P and the stars that are ``alive`` with a solver of optax; the others follow.

    Parameters
    ----------
    batch : Batch
    solution : Solution
        Where to start; changed in place.
    alive : (k,) bool array
    prior : Prior, optional
    solver : {"adam", "lbfgs"}
    num_steps : int, optional
    learning_rate : float
        Of Adam, for pixels of P, fluxes over their first values, positions in px and skies over their noise.
    schedule : {"constant", "cosine"}
        How the learning rate of Adam goes on.
    warm : bool
        The start is near already: a quarter of the steps.

    Returns
    -------
    Solution

    Notes
    -----
    L-BFGS moves in units of the parameters' own uncertainties, in which the loss is nearly round. Settled is what
    Newton's method would lower chi2 by no more.
    """
    from galprep_dask.psf._kernels.first_order import descend_round, initial_state

    problem = batch.problem
    num_steps = num_steps or STEPS[solver]
    if warm:
        num_steps = max(num_steps // 4, 1)
    # Fluxes and positions start from their best values for the first P, as any careful user would have them do.
    floor = TOLERANCES[-1] if warm else TOLERANCES[0]
    follow(batch, solution, prior, steps=4, floor=floor)
    rounds = Rounds(batch, solution, alive, prior)
    rounds.keep(solution, rounds.round(0, floor).summary)
    units, stars = _units(batch, solution, prior, solver), rounds.stars
    values = {
        "psf": np.zeros_like(units.origin), "flux": stars.flux / units.flux, "dx": stars.dx / units.shift,
        "dy": stars.dy / units.shift, "sky": stars.sky / units.sky,
    }  # fmt: skip
    # Only a schedule knows how many steps there will be; where it counts, another number is compiled anew.
    known = num_steps if schedule == "cosine" else 0
    chosen = {"solver": solver, "schedule": schedule, "learning_rate": learning_rate, "num_steps": known}
    state, history, settled = initial_state(values, **chosen), [], False
    diagonal = np.asarray(solution.diagonal, problem.dtype)
    for number in range(min(ROUNDS, num_steps)):
        floor = TOLERANCES[-1 if warm else min(number, len(TOLERANCES) - 1)]
        values, state, rounds.psf, rounds.stars = descend_round(
            values, state, units, batch.stamps, rounds.fitted, rounds.tolerance, rounds.prior, diagonal,
            settings_of(problem, floor), oversampling=problem.oversampling, half=problem.core,
            steps=num_steps // min(ROUNDS, num_steps), free_sky=problem.free_sky, **chosen,
        )  # fmt: skip
        if solver == "lbfgs":  # the weights are new, and so is the function whose curvature it remembers
            state = initial_state(values, **chosen)
        summary = rounds.round(0, floor).summary
        history.append(float(summary.loss))
        late = warm or number >= len(TOLERANCES) - 1
        if late and float(summary.promise) < NEARER * SETTLED * solution.psf.size / problem.oversampling**2:
            settled = True
            break
        rounds.tolerance = np.maximum(summary.misfit, rounds.tolerance) if late else np.asarray(summary.misfit)
    solution.psf = np.array(rounds.psf, np.float64)
    rounds.keep(solution, summary)
    follow(batch, solution, prior, steps=2)  # those that were only looking on
    solution.loss_history = solution.loss_history + history
    solution.converged = settled
    return solution


def _units(batch, solution, prior, solver):
    """Say what the variables are measured in."""
    from galprep_dask.psf._kernels.first_order import Units

    problem, psf = batch.problem, solution.psf
    one = np.ones((), problem.dtype)
    if solver == "adam":
        noise = np.sqrt(np.median(problem.variance, axis=(1, 2)))
        flux, sky = batch.pad(np.maximum(np.abs(solution.flux), noise), 1.0), batch.pad(noise, 1.0)
        return Units(psf.astype(problem.dtype), one.reshape(1, 1, 1), one, flux, one.reshape(1, 1), sky)
    curvature = np.diagonal(solution.normal, axis1=1, axis2=2)
    flux, dx, dy, sky = (batch.pad(1 / np.sqrt(np.maximum(column, 1e-30)), 1.0) for column in curvature.T)
    pixel, response = solution.diagonal, one
    if prior is not None:
        pixel = pixel + prior.shrink
        response = np.asarray(
            (prior.spectrum + np.sqrt(prior.strength[0] * prior.strength[1]) + prior.smooth) ** -0.5, problem.dtype
        )
    pixel = np.asarray(pixel**-0.5, problem.dtype)
    return Units(psf.astype(problem.dtype), pixel, response, flux, np.minimum(np.minimum(dx, dy), 1), sky)
