"""Rounds of a solver until they settle: stamps put into groups, JAX called, numbers brought back."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

__all__ = ["Batch", "Problem", "Rounds", "Solution", "fit_stars", "follow", "minimise", "precision", "settings_of"]

#: Pixels of a group of stars: one such array is 4 MiB in float32. Smaller groups cost more than they save.
GROUP_PIXELS = 2**20
#: Fraction by which the model may be wrong without a pixel being clipped, round by round.
TOLERANCES = (0.3, 0.03, 0.01)
#: Fraction of what there is to gain that conjugate gradients leave to the next round, round by round.
LEFT = (2e-2, 2e-3, 3e-4)
#: Settled: chi2 can fall by less than this fraction of the number of parameters, which noise adds to it.
SETTLED = 0.001
#: A loss that rises when no more than this times as much is left: a pixel at its limit may come and go for ever.
NEARLY = 4.0
#: Limits on pixels tighten when less than this fraction of chi2 is still to be gained.
HALF_WAY = 0.5
#: A step is halved when it made the loss so many times larger.
WORSE = 2.0


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

    def of(self, index) -> Problem:
        """Give the problem of the stars of an index."""
        stars = {name: getattr(self, name)[index] for name in ("data", "good", "variance", "basis")}
        return replace(self, **stars)


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
    fitted: np.ndarray | None = None
    loss_history: list = field(default_factory=list)
    converged: bool = False


def _ladder(count: int) -> int:
    """Round up to 1, 2 ... 8, 10, 12, 14, 16, 20, 24 ...: few sizes, so that few are compiled."""
    step = 1 << max((count - 1).bit_length() - 3, 0)
    return -(-count // step) * step


def _grouping(count, size, widest):
    """Give the number of groups and of stars in one; ``widest`` is the side of the widest array of a star."""
    group = max(GROUP_PIXELS // (size * widest), 8)
    if count <= group:
        return 1, min(max(_ladder(count), 8), group)
    return _ladder(-(-count // group)), group


class Batch:
    """Stamps of a problem on the device, in groups, padded with stars of no weight."""

    def __init__(self, problem: Problem, fine: int):
        self.problem, self.count = problem, len(problem.data)
        from galprep_dask.psf._kernels.parts import pitch_of  # brings JAX

        size = problem.data.shape[-1]
        self.shape = _grouping(self.count, size, max(size, pitch_of(size, fine, problem.oversampling)[0]))
        self._stamps = None

    def pad(self, values, fill=0.0):
        """Put (k, ...) values into (groups, stars, ...), of the precision of the fit."""
        groups, stars = self.shape
        out = np.full((groups * stars, *values.shape[1:]), fill, self.problem.dtype)
        out[: self.count] = values
        return out.reshape(groups, stars, *values.shape[1:])

    def unpad(self, values):
        """Bring (groups, stars, ...) back to (k, ...), float64."""
        values = np.asarray(values, np.float64)
        return values.reshape(-1, *values.shape[2:])[: self.count]

    @property
    def stamps(self):
        """The stamps on the device."""
        import jax.numpy as jnp

        from galprep_dask.psf._kernels.loss import Stamps

        if self._stamps is None:
            p = self.problem
            arrays = self.pad(p.data), self.pad(p.good), self.pad(p.variance, 1.0), self.pad(p.basis)
            self._stamps = Stamps(*(jnp.asarray(array) for array in arrays))
        return self._stamps

    def stars(self, solution):
        """Give the stars of a solution on the device."""
        from galprep_dask.psf._kernels.loss import Stars

        return Stars(self.pad(solution.flux, 1.0), self.pad(solution.dx), self.pad(solution.dy), self.pad(solution.sky))

    def take(self, solution, stars, told):
        """Write stars and what was told of them, (groups, stars, ...) arrays, into ``solution``."""
        solution.flux, solution.dx, solution.dy, solution.sky = (self.unpad(values) for values in stars)
        for name, values in zip(("chi2", "n_good", "n_clipped", "misfit", "normal"), told, strict=True):
            setattr(solution, name, self.unpad(values))


def precision(dtype):
    """64-bit arithmetic inside JAX for the time of a fit, and nowhere else."""
    import galprep_dask.psf._kernels  # noqa: F401 - says how device memory is taken before JAX is loaded

    if np.dtype(dtype) != np.float64:
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def settings_of(problem, floor):
    """Numbers of a problem for the device, with the least fraction by which a model may be wrong."""
    from galprep_dask.psf._kernels.loss import Settings

    numbers = problem.inverse_gain, problem.clip, floor, float(problem.free_sky), problem.a_tv, problem.a_sky
    return Settings(*(np.asarray(number, problem.dtype) for number in numbers))


class Rounds:
    """Rounds of Newton's method, from where a solution is."""

    def __init__(self, batch, solution, fitted, prior):
        import jax.numpy as jnp

        from galprep_dask.psf._kernels.prior import Prior

        problem = batch.problem
        self.batch, self.problem = batch, problem
        self.psf, self.stars = jnp.asarray(solution.psf, problem.dtype), batch.stars(solution)
        self.fitted = batch.pad(np.asarray(fitted, float))
        self.tolerance = batch.pad(np.zeros(batch.count) if solution.misfit is None else solution.misfit)
        self.prior = None if prior is None else Prior(*(np.asarray(part, problem.dtype) for part in prior))

    def round(self, steps, floor, left=LEFT[-1]):
        """Give where a round of so many steps would get, and what it saw."""
        from galprep_dask.psf._kernels.newton import newton_round

        return newton_round(
            self.psf, self.stars, self.batch.stamps, self.fitted, self.tolerance, settings_of(self.problem, floor),
            self.prior, oversampling=self.problem.oversampling, half=self.problem.core, steps=steps,
            regular=self.prior is not None, left=np.asarray(left, self.problem.dtype),
            enough=np.asarray(0.1 * SETTLED * self.psf.size / self.problem.oversampling**2, self.problem.dtype),
        )  # fmt: skip

    def keep(self, solution, summary):
        """Write the stars, and what was seen of them, into ``solution``."""
        self.batch.take(solution, self.stars, summary[:5])
        solution.diagonal = np.asarray(summary.diagonal, np.float64)


def fit_stars(batch: Batch, solution: Solution, *, steps: int = 4, floor: float | None = None) -> np.ndarray:
    """
    Fit flux, position and sky of every star to the PSF of ``solution``, which is changed in place.

    Parameters
    ----------
    batch : Batch
    solution : Solution
    steps : int
        How often the stars are moved; 0 only looks at them.
    floor : float, optional
        Least fraction by which the model may be wrong.

    Returns
    -------
    (k, n, n) array
        The stars, of flux 1.
    """
    from galprep_dask.psf._kernels.newton import star_round

    problem, stars = batch.problem, batch.stars(solution)
    psf = np.asarray(solution.psf, problem.dtype)
    tolerance = batch.pad(np.zeros(batch.count) if solution.misfit is None else solution.misfit)
    settings = settings_of(problem, TOLERANCES[-1] if floor is None else floor)
    for number in range(steps + 1):
        moved, told, light = star_round(
            psf, stars, batch.stamps, tolerance, settings, oversampling=problem.oversampling, half=problem.core
        )
        stars = moved if number < steps else stars
    batch.take(solution, stars, told)
    return batch.unpad(light)


def follow(batch: Batch, solution: Solution, prior=None, *, steps: int = 1, floor: float = TOLERANCES[-1]) -> None:
    """
    Fit all stars to the PSF of ``solution`` as a round of Newton's method does that has no steps.

    It is :func:`fit_stars` without the images, for a batch and a ``prior`` for which that round is compiled already.
    """
    rounds = Rounds(batch, solution, np.ones(batch.count), prior)
    for _ in range(steps):
        rounds.stars = rounds.round(0, floor).stars
    batch.take(solution, rounds.stars, rounds.round(0, floor).summary[:5])


def _doubt(problem, solution, alive):
    """
    Fraction by which P may be wrong for stars that are fitted now and were not when it was made, (k,).

    A bright star that comes back shows the noise of a P that was made of fainter ones, whose variance is 1 / D, D the
    sum of their flux^2 / sigma^2. That is no reason to clip its pixels.
    """
    from galprep_dask.psf._kernels.loss import WINGS

    out = np.zeros(len(alive))
    if solution.fitted is None:
        return out
    profile = solution.psf[0] / solution.psf[0].max()
    core = profile > 0.25
    for k in np.flatnonzero(alive & ~solution.fitted):
        noise = np.sqrt(np.tensordot(problem.basis[k] ** 2, 1 / solution.diagonal, 1))
        # Of a pixel of the data, over its peak there.
        noise = noise / (solution.psf[0].max() * problem.oversampling)
        out[k] = max(np.sqrt(np.median(noise) / WINGS), np.median((noise / np.maximum(profile, 0.25))[core]))
    return np.minimum(out, TOLERANCES[0])


def _middle(a, b):
    return (a + b) / 2


def minimise(batch: Batch, solution: Solution, alive, prior=None, *, rounds: int = 12, steps: int = 12, warm=False):
    """
    Fit P to the stars that are ``alive`` by Newton's method; the others follow it with their own parameters.

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
        At most so many rounds that change P, and conjugate gradient steps in each.
    warm : bool
        The start is near already: clip at once as at the end.

    Returns
    -------
    Solution
    """
    state = Rounds(batch, solution, alive, prior)
    if warm:
        state.tolerance = np.maximum(state.tolerance, batch.pad(_doubt(batch.problem, solution, alive)))
    history, converged = [], False
    last = len(TOLERANCES) - 1
    stage, least, here = last if warm else 0, np.inf, None
    for number in range(rounds + 1):
        late = stage == last
        before, here = here, (state.psf, state.stars)
        found = state.round(steps if number < rounds else 0, TOLERANCES[stage], LEFT[stage])
        summary = found.summary
        history.append(float(summary.loss))
        if before is not None and not history[-1] <= WORSE * least:
            # It went too far, as weights and positions do not follow a straight line.
            if number == rounds:
                state.psf, state.stars = before
                summary = state.round(0, TOLERANCES[stage]).summary
                history.append(float(summary.loss))
            else:
                state.psf, state.stars = (before[0] + here[0]) / 2, type(here[1])(*map(_middle, before[1], here[1]))
                here = before
            continue
        least = min(least, history[-1])
        promise = float(summary.promise)
        enough = SETTLED * state.psf.size / batch.problem.oversampling**2
        settled, rises = promise < enough, len(history) > 1 and history[-1] > history[-2]
        converged = late and (settled or (rises and promise < NEARLY * enough))
        state.psf, state.stars = found.psf, found.stars
        if converged:  # what was seen before this last, small step is as good as what would be seen after it
            break
        # While P is mostly wrong, tighter limits would clip what it is to learn from.
        if number == 0 or settled or promise < HALF_WAY * float((summary.chi2 * state.fitted).sum()):
            stage = min(stage + 1, last)
        # What was once let through stays, or clipped pixels might come and go for ever.
        misfit = np.asarray(summary.misfit)
        state.tolerance = np.maximum(misfit, state.tolerance) if late else misfit
    solution.psf = np.array(state.psf, np.float64)
    state.keep(solution, summary)
    solution.loss_history = solution.loss_history + history
    solution.converged, solution.fitted = converged, np.array(alive, bool)
    return solution
