"""Rounds of a solver until they settle: stamps put into groups, JAX called, numbers brought back."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Problem", "Solution", "fit_stars", "minimise"]

#: Pixels of a group of stars: one such array is 4 MiB in float32 and stays near the processor.
GROUP_PIXELS = 2**20
#: Fraction by which the model may be wrong without a pixel being clipped, round by round.
TOLERANCES = (0.3, 0.1, 0.03, 0.01)
#: Settled: in a round chi2 falls by less than this fraction of the number of parameters, which noise adds to it.
SETTLED = 0.001


@dataclass(frozen=True)
class Problem:
    """Everything that a fit is given; NumPy, (k, n, n) and (k, m) arrays."""

    data: np.ndarray
    good: np.ndarray
    variance: np.ndarray
    basis: np.ndarray
    oversampling: int
    inverse_gain: float = 0.0
    clip: float = 5.0
    free_sky: bool = True
    a_tv: float = 0.0
    a_sky: float = 0.0
    core: int = 5
    dtype: str = "float32"


@dataclass
class Solution:
    """Where a fit is; stars are (k,) float64 arrays."""

    psf: np.ndarray
    flux: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    sky: np.ndarray
    chi2: np.ndarray | None = None
    n_good: np.ndarray | None = None
    n_clipped: np.ndarray | None = None
    misfit: np.ndarray | None = None
    normal: np.ndarray | None = None
    diagonal: np.ndarray | None = None
    loss_history: list = field(default_factory=list)
    converged: bool = False


def _ladder(count: int) -> int:
    """Round up to 1 to 8, 10, 12, 14, 16, 20, 24 ...: few sizes, so that few are compiled."""
    step = max(1 << max((count - 1).bit_length() - 3, 0), 1)
    return -(-count // step) * step


def _grouping(count, size, fine):
    group = max(GROUP_PIXELS // (size * max(size, fine)), 1)
    if count <= group:
        return 1, _ladder(count)
    return _ladder(-(-count // group)), group


class Batch:
    """Stamps of a problem on the device, in groups, padded with stars of no weight."""

    def __init__(self, problem: Problem, fine: int):
        self.problem, self.count = problem, len(problem.data)
        self.shape = _grouping(self.count, problem.data.shape[-1], fine)
        self._stamps = None

    def pad(self, values, fill=0.0):
        """Put (k, ...) values into (groups, stars, ...)."""
        import jax.numpy as jnp

        groups, stars = self.shape
        out = np.full((groups * stars, *values.shape[1:]), fill, self.problem.dtype)
        out[: self.count] = values
        return jnp.asarray(out.reshape(groups, stars, *values.shape[1:]))

    def unpad(self, values):
        """Bring (groups, stars, ...) back to (k, ...), float64."""
        values = np.asarray(values, np.float64)
        return values.reshape(-1, *values.shape[2:])[: self.count]

    def stamps(self, alive):
        """Give the stamps with the weights of stars that are not ``alive`` set to zero."""
        from galprep_dask.psf._kernels.loss import Stamps

        if self._stamps is None:
            p = self.problem
            self._stamps = Stamps(self.pad(p.data), self.pad(p.good), self.pad(p.variance, 1.0), self.pad(p.basis, 0.0))
        on = self.pad(np.asarray(alive, float))
        return self._stamps._replace(good=self._stamps.good * on[:, :, None, None])

    def stars(self, solution):
        """Give the stars of a solution on the device."""
        from galprep_dask.psf._kernels.loss import Stars

        return Stars(
            self.pad(solution.flux, 1.0), self.pad(solution.dx), self.pad(solution.dy), self.pad(solution.sky)
        )

    def take(self, solution, stars, summary):
        """Write stars and summary into ``solution``."""
        solution.flux, solution.dx, solution.dy, solution.sky = (self.unpad(values) for values in stars)
        for name in ("chi2", "n_good", "n_clipped", "misfit", "normal"):
            setattr(solution, name, self.unpad(getattr(summary, name)))


def precision(dtype):
    """64-bit arithmetic inside JAX for the time of a fit, and nowhere else."""
    import galprep_dask.psf._kernels  # noqa: F401 - says how device memory is taken before JAX is loaded

    if np.dtype(dtype) != np.float64:
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def _settings(problem, floor):
    import jax.numpy as jnp

    from galprep_dask.psf._kernels.newton import Settings

    numbers = problem.inverse_gain, problem.clip, floor, float(problem.free_sky), problem.a_tv, problem.a_sky
    return Settings(*(jnp.asarray(number, problem.dtype) for number in numbers))


def fit_stars(batch: Batch, solution: Solution, alive, *, steps: int = 4, floor: float | None = None) -> Solution:
    """Fit flux, position and sky of every star that is ``alive`` to the PSF of ``solution``."""
    import jax.numpy as jnp

    from galprep_dask.psf._kernels.newton import star_round

    problem = batch.problem
    floor = TOLERANCES[-1] if floor is None else floor
    stars, summary = star_round(
        jnp.asarray(solution.psf, problem.dtype), batch.stars(solution), batch.stamps(alive),
        batch.pad(_misfit(solution, batch)), _settings(problem, floor),
        oversampling=problem.oversampling, half=problem.core, steps=steps,
    )  # fmt: skip
    batch.take(solution, stars, summary)
    return solution


def _misfit(solution, batch):
    return np.zeros(batch.count) if solution.misfit is None else solution.misfit


def minimise(batch: Batch, solution: Solution, alive, prior=None, *, rounds: int = 12, steps: int = 12, warm=False):
    """
    Fit P and all stars that are ``alive`` by Newton's method.

    Parameters
    ----------
    batch : Batch
    solution : Solution
        Where to start; changed in place.
    alive : (k,) bool array
        Stars that count.
    prior : Prior, optional
        Needed for oversampled fits, penalties and fields.
    rounds, steps : int
        At most so many rounds, conjugate gradient steps in each.
    warm : bool
        The start is near already: clip at once as at the end.

    Returns
    -------
    Solution
    """
    import jax.numpy as jnp

    from galprep_dask.psf._kernels.newton import psf_round, star_round
    from galprep_dask.psf._kernels.prior import Prior

    problem = batch.problem
    psf, stars = jnp.asarray(solution.psf, problem.dtype), batch.stars(solution)
    stamps, tolerance = batch.stamps(alive), batch.pad(_misfit(solution, batch))
    regular = prior is not None
    given = Prior(*(jnp.asarray(part, problem.dtype) for part in prior)) if regular else None
    history, converged = [], False
    for number in range(rounds):
        floor = TOLERANCES[-1] if warm else TOLERANCES[min(number, len(TOLERANCES) - 1)]
        known = {"oversampling": problem.oversampling, "half": problem.core}
        settings = _settings(problem, floor)
        stars, summary = star_round(psf, stars, stamps, tolerance, settings, steps=1 if number else 3, **known)
        history.append(float(summary.loss))
        fall = abs(history[-2] - history[-1]) * 2 * float(summary.n_good.sum()) if number else np.inf
        if number >= (1 if warm else len(TOLERANCES) - 1) and fall < SETTLED * psf.size:
            converged = True
            break
        psf, diagonal = psf_round(
            psf, stars, stamps, tolerance, settings, given, summary.n_good.sum(), steps=steps, regular=regular, **known
        )
        # What was once let through stays, or clipped pixels might come and go for ever.
        late = number >= len(TOLERANCES) - 1 or warm
        tolerance = jnp.maximum(summary.misfit, tolerance) if late else summary.misfit
    solution.psf = np.array(psf, np.float64)
    solution.diagonal = np.asarray(diagonal, np.float64)
    batch.take(solution, stars, summary)
    solution.loss_history = solution.loss_history + history
    solution.converged = converged
    return solution
