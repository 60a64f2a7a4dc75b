"""Fit of a PSF to many stars together."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from galprep_dask.cluster import as_one_task, computes_on_cluster, is_task
from galprep_dask.errors import (
    ImageShapeError,
    NoGoodPixelsError,
    NotConvergedWarning,
    ParameterError,
    TooFewStarsError,
)  # fmt: skip
from galprep_dask.psf.assemble import assemble
from galprep_dask.psf.field import make_field
from galprep_dask.psf.gauge import fix_gauge
from galprep_dask.psf.model import PSFModel
from galprep_dask.psf.neighbours import without_neighbours
from galprep_dask.psf.prior import TIMES, first_prior, learned_prior
from galprep_dask.psf.profile import lost_to_sampling, needed_oversampling, slope_of
from galprep_dask.psf.solve import Batch, Problem, Solution, fit_stars, minimise, precision
from galprep_dask.psf.stack import stack_of
from galprep_dask.psf.start import BETA, moffat_psf, starting_values
from galprep_dask.psf.validate import folds_of, predicted, summarised
from galprep_dask.psf.wings import join_wings

__all__ = ["fit_psf"]

SOLVERS = ("newton", "lbfgs", "adam")
#: A star counts as masked when fewer good pixels than this fraction are left within CORE_FWHM of its middle.
LEAST_CORE, CORE_FWHM = 0.35, 1.0
#: S/N below which a stamp is blank.
FAINTEST = 5.0
#: A star is no star when its misfit is significant by this many sigmas, above this multiple of the others', and above
#: this fraction of its light.
MISFIT_SIGMAS, MISFIT_RATIO, MISFIT_LEAST = 6.0, 4.0, 0.1
#: A first fit leaves out stamps whose size differs from the others' by more than this factor.
SUSPECT = 1.25
#: So many of the brightest stars say whether the data's sampling is fine enough.
TELLING = 200
#: Rounds of Newton's method at most, whatever is asked for: scripts that ask for thousands mean the steps of Adam.
MOST_ROUNDS = 200
#: A higher degree is chosen when it lowers chi2 of reserved stars by more than this per star.
WORTH = 1.0


def fit_psf(
    stamps, *, mask=None, sigma=None, sky_std=None, gain=None, x=None, y=None, oversampling: int | str = "auto",
    degree: int | str = 0, solver: str = "newton", a_TV: float = 0.0, a_sky: float = 0.0, learning_rate: float = 2e-5,  # noqa: N803
    num_steps: int | None = None, reserve: float = 0.2, seed: int = 0, refit: bool = True, local_sky: bool = True,
    neighbours: str = "mask", wings=None, clip: float = 5.0, dtype: str = "float32",
) -> PSFModel:  # fmt: skip
    r"""
    Fit one PSF, constant or varying over the field, to all stars together.

    Stamp k is modelled as :math:`f_k\,P(x - dx_k, y - dy_k) + b_k`, P integrated over pixels. P, fluxes, positions and
    local skies minimise half the mean over good pixels of (residual / sigma) squared, plus ``a_TV`` times the total
    variation of P, plus ``a_sky`` times the mean of the squared skies over their noise.

    Parameters
    ----------
    stamps : (k, n, n) array
        Stars near the middle of square stamps with an odd side. Not modified.
    mask : (k, n, n) bool array, optional
        True marks pixels left out: bad ones and neighbours. Non-finite pixels always are.
    sigma : (k, n, n) array or float, optional
        1-sigma noise of the pixels, in the unit of ``stamps``, taken as it is; or, with ``gain``, as the total noise
        of the image, of which the part of the background is used and the stars' own photons come from the model.
    sky_std : float or (k,) array, optional
        Noise of the background instead of ``sigma``. Without either it is measured around the stars.
    gain : float, optional
        Electrons per unit of ``stamps``: photon noise of the stars, taken from the model. None: no such noise.
    x, y : (k,) arrays, optional
        Positions of the stars in the field, for ``degree`` above 0.
    oversampling : int or "auto"
        Fine pixels of P per data pixel. "auto": 4 to the FWHM for stars below 2.5 px, since a sharper PSF cannot be
        shifted at the data's own sampling; 2 where stars are so bright that they show what that sampling loses of
        their profile; else 1. ``oversampling`` of the result and its repr say what was chosen.
    degree : int or "auto"
        Total degree, 0 to 4, of the polynomials in (x, y) by which P varies. "auto": the degree that predicts reserved
        stars best.
    solver : {"newton", "lbfgs", "adam"}
        Newton settles by itself in a few rounds; the others are optax's.
    a_TV, a_sky : float
        Strengths of the penalties.
    learning_rate : float
        Of Adam.
    num_steps : int, optional
        Most steps: rounds of Newton's method (20 by default, 60 with ``a_TV``, never above 200), steps of L-BFGS (1000)
        or Adam (80000).
    reserve : float
        Fraction of the stars, 0.2 to 0.5, that is kept out of the fit and predicted from it. With fewer than 25 stars
        all are reserved in turn.
    seed : int
        Chooses the reserved stars.
    refit : bool
        Fit again, from there, with the reserved stars too; what is handed out comes from all of them.
    local_sky : bool
        Fit a sky of its own to every stamp; False takes the stamps as sky-subtracted.
    neighbours : {"mask", "fit"}
        "mask" leaves out what ``mask`` says and clips what the model does not explain; "fit" also looks for
        point-like neighbours in the residuals, fits them with the same PSF and takes them off.
    wings : (k, n, n) array or pair of arrays, optional
        Sky-subtracted stamps of brighter stars, larger than ``stamps``, and their mask with the saturated cores;
        what is handed out has their size. See :func:`join_wings`.
    clip : float
        Pixels further than so many sigmas from the model are left out.
    dtype : {"float32", "float64"}
        Precision of the arithmetic. Results are float64 arrays either way.

    Returns
    -------
    PSFModel
        ``validation`` holds n_fitted and n_reserved (numbers of stars), n_folds, reduced_chi2 (median over reserved
        stars), size_residual, e1_residual and e2_residual (means of observed less predicted, the size as a fraction)
        with their ``_error``, and the same of a plain stack of the fitted stars with ``stack_`` in front.

    Raises
    ------
    ImageShapeError
        Stamps are not square with an odd side, or other arrays do not fit them.
    ParameterError
        A parameter makes no sense, or the one that another needs is missing.
    NoGoodPixelsError
        Every pixel of every stamp is masked.
    TooFewStarsError
        No usable star, or fewer than coefficients of the field.

    Warns
    -----
    NotConvergedWarning
        The solver ran out of steps.

    Notes
    -----
    Newton's method eliminates the stars' own parameters from the normal equations and solves those of P by
    preconditioned conjugate gradients [1]_. At the data's sampling nothing regularises P, so its error is the
    Cramer-Rao bound where the model holds; an oversampled P is drawn to a Moffat profile at the frequencies that
    pixels blur away, and coefficients that vary over the field are shrunk to what the stars show of them.

    With a client of ``dask.distributed`` the fit is one task of one worker, with one thread.

    References
    ----------
    .. [1] Golub and Pereyra 2003, Inverse Problems 19, R1, on separable least squares.

    Examples
    --------
    >>> import numpy as np
    >>> from galprep_dask.psf import fit_psf
    >>> rng = np.random.default_rng(0)
    >>> iy, ix = np.mgrid[-10:11, -10:11]
    >>> stars = [1e4 * np.exp(-((ix - a) ** 2 + (iy - b) ** 2) / 5.8) for a, b in rng.uniform(-0.5, 0.5, (30, 2))]
    >>> model = fit_psf(stars + rng.normal(0, 1, (30, 21, 21)), sky_std=1.0)
    >>> model.converged, model.image.shape, round(model.fwhm)
    (True, (21, 21), 4)
    """
    given = dict(locals())
    if computes_on_cluster() and not is_task():
        return as_one_task(fit_psf, **given)
    data, good, degree_max = _checked(stamps, mask, x, y, oversampling, degree, solver, reserve, dtype)
    for name, value in (("a_TV", a_TV), ("a_sky", a_sky)):
        if not (np.isfinite(value) and value >= 0):
            raise ParameterError(f"{name}={value!r}: a penalty is 0 or more.")
    for name, value in (("learning_rate", learning_rate), ("clip", clip), *((("gain", gain),) if gain else ())):
        if not (np.isfinite(value) and value > 0):
            raise ParameterError(f"{name}={value!r}: it must be above 0.")
    if num_steps is not None and num_steps < 1:
        raise ParameterError(f"num_steps={num_steps!r}: at least 1, or None for the solver's own.")
    count, size = data.shape[:2]
    sky, dx, dy, flux, fwhm = starting_values(data, good)
    if not local_sky:
        sky = np.zeros(count)
    variance, good = _variances(data, good, sigma, sky_std, gain, sky)
    reasons = _unusable(good, fwhm)
    usable = reasons == ""
    if not usable.any():
        raise TooFewStarsError(f"none of the {count} stamps has enough good pixels in its middle to be fitted.")
    chosen, slope = _grid_for(data, good, variance, gain, sky, dx, dy, flux, fwhm, usable, oversampling)
    fine = size * chosen - (size * chosen + 1) % 2
    problem = Problem(
        data, good, variance, np.ones((count, 1)), chosen, 1 / gain if gain else 0.0, clip, local_sky, a_TV, a_sky,
        core=int(np.clip(np.ceil(fwhm), 2, size // 2)), dtype=dtype,
    )  # fmt: skip
    start = Solution(moffat_psf(fwhm, size, fine, chosen, slope)[None], flux, dx, dy, sky)
    snr = flux / np.sqrt(np.median(variance) * (fwhm * 1.5) ** 2)
    if neighbours not in ("mask", "fit"):
        raise ParameterError(f"neighbours={neighbours!r}: 'mask' or 'fit'.")
    options = {"solver": solver, "num_steps": num_steps, "learning_rate": learning_rate}
    with precision(dtype):
        best, failed = None, 0
        for trial in range(degree_max + 1) if degree == "auto" else (degree,):
            fitted = _Fit(problem, start, reasons.copy(), snr, x, y, trial, reserve, seed, options)
            if neighbours == "fit":
                # What was found is taken off, and the fit begins again; the second time the PSF is good enough to stay.
                found = None
                for _ in range(2):
                    observed = replace(problem, basis=fitted.problem.basis)
                    cleaned, found = without_neighbours(observed, fitted.solution, fwhm, found)
                    if not len(found):
                        break
                    begin = replace(fitted.solution, psf=fitted.solution.psf[:1], loss_history=[])
                    cleaned = replace(cleaned, basis=problem.basis)
                    fitted = _Fit(cleaned, begin, reasons.copy(), snr, x, y, trial, reserve, seed, options)
            if best is None or fitted.better_than(best):
                best, failed = fitted, 0
            else:
                failed += 1
            if failed == 2:  # one may fail where a field is even, as distortions are
                break
        model = best.finished(
            refit, {"oversampling": oversampling, "degree": degree, "solver": solver, "a_TV": a_TV, "a_sky": a_sky,
                    "reserve": reserve, "seed": seed, "refit": refit, "local_sky": local_sky, "clip": clip,
                    "gain": gain, "neighbours": neighbours, "dtype": dtype},
        )  # fmt: skip
    if wings is None:
        return model
    bright, cores = wings if isinstance(wings, tuple) else (wings, None)
    return join_wings(model, bright, cores)


class _Fit:
    """One degree fitted and validated; ``finished`` makes the model of it."""

    def __init__(self, problem, start, reasons, snr, x, y, degree, reserve, seed, options):
        usable = reasons == ""
        self.problem, self.options, self.field = problem, options, None
        self.base, self.reasons = reasons, reasons
        if degree > 0:
            terms = (degree + 1) * (degree + 2) // 2
            fitted = usable.sum() - int(np.ceil(usable.sum() * reserve))
            if fitted < 2 * terms:
                raise TooFewStarsError(
                    f"{usable.sum()} usable stars, of which {fitted} are fitted: degree={degree} has {terms} "
                    f"coefficients and needs at least {2 * terms}. Lower degree, or pass degree='auto'."
                )
            weight = np.where(usable, np.clip(snr, 0, None) ** 2, 0)
            kept = np.where(usable)[0]
            self.field = make_field(np.asarray(x)[kept], np.asarray(y)[kept], degree, weight[kept] + 1e-12)
            # Stars that are left out may lie anywhere; they are looked at as if in the middle.
            anywhere = [np.where(usable, at, np.mean(np.asarray(at)[kept])) for at in (x, y)]
            basis = self.field.basis(*anywhere)
            self.problem = problem = replace(problem, basis=basis)
        self.batch = Batch(problem, start.psf.shape[-1])
        terms = problem.basis.shape[1]
        psf = np.concatenate([start.psf, np.zeros((terms - 1, *start.psf.shape[1:]))])
        self.prior = first_prior(psf, problem)
        self.solution = Solution(psf, start.flux.copy(), start.dx.copy(), start.dy.copy(), start.sky.copy())
        fold, n_folds = folds_of(snr, usable, reserve, seed)
        self.reserved = np.zeros(len(fold), bool)
        self.n_folds, found, stacked, kept_snr, kept_index = n_folds, [], [], [], []
        for number in range(max(n_folds, 1)):
            out = (fold == number) if n_folds else np.zeros(len(fold), bool)
            alive = self._fit(usable & ~out, warm=number > 0)
            if number == 0:
                self.first_alive = alive
            seen = np.nonzero(out & (self.reasons == ""))[0]
            self.reserved |= out
            if len(seen):
                found.append(self._predict(seen))
                stacked.append(self._predict_stack(alive, seen))
                kept_snr.append(self.solution.flux[seen] / self._flux_error()[seen])
                kept_index.append(seen)
        self.fitted = self.solution
        names = ("reduced_chi2", "size", "e1", "e2")
        joined, joined_stack = (
            {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0) for name in names}
            for parts in (found, stacked)
        )
        kept_snr = np.concatenate(kept_snr) if found else np.zeros(0)
        self.reserved_stars = np.concatenate(kept_index) if found else np.zeros(0, int)
        good_pixels = self.problem.good.sum((1, 2))[self.reserved_stars]
        self.chi2 = dict(zip(self.reserved_stars.tolist(), joined["reduced_chi2"] * good_pixels, strict=True))
        self.validation = {
            "n_fitted": int(self.first_alive.sum()), "n_reserved": len(kept_snr), "n_folds": n_folds,
            **summarised(joined, kept_snr), **summarised(joined_stack, kept_snr, "stack_"),
        }  # fmt: skip

    def better_than(self, other):
        """Whether the stars that both have reserved are predicted better, by more than chance would do."""
        both = self.chi2.keys() & other.chi2.keys()
        gain = sum(other.chi2[k] - self.chi2[k] for k in both)
        lost = len(other.chi2.keys() - both), len(self.chi2.keys() - both)
        return gain > WORTH * len(both) or (lost[1] > lost[0] and gain > 0)

    def _fit(self, alive, warm=False):
        """Minimise over stars that are ``alive``, look for what is no star, and do so again without it."""
        candidates, usable = alive, self.base == ""
        if not warm:
            alive = alive & self._alike(alive)
        for attempt in range(4):
            self._minimise(alive, warm=warm or attempt > 0)
            self.reasons = np.where(usable, self._no_stars(alive), self.base)
            fine = candidates & (self.reasons == "")
            if not fine.any():
                raise TooFewStarsError("no stamp looks like the others: there is no star to be fitted.")
            if not (alive & ~fine).any():  # those that only looked odd at first join in the last fit
                break
            alive = fine
        return alive

    def _minimise(self, alive, warm=False):
        s = self.problem.oversampling
        if (self.field is not None or s > 1) and not warm:
            for _ in range(TIMES - 1 if s > 1 else 1):
                self._run(alive, False, 5)
                if s > 1:
                    # Drawn to where a fit has got: what it was held back by is left behind (Tikhonov, iterated).
                    self.prior = self.prior._replace(start=self.solution.psf.copy())
            if self.field is not None:
                self.prior = learned_prior(self.prior, self.solution, s)
            warm = True
        self._run(alive, warm)
        self.level_variance = fix_gauge(self.solution, self.problem, alive)

    def _run(self, alive, warm, most=None):
        """Run the solver, Newton's method for no more than ``most`` rounds."""
        prior, options = self.prior if self._regular() else None, self.options
        if options["solver"] == "newton":
            # The total variation ties pixels to their neighbours, which the preconditioner knows nothing of, and it is
            # no quadratic.
            most_rounds, steps = (60, 100) if self.problem.a_tv > 0 else (20, 12)
            rounds = min(options["num_steps"] or most_rounds, MOST_ROUNDS)
            minimise(
                self.batch, self.solution, alive, prior, rounds=min(rounds, most or rounds), steps=steps, warm=warm
            )
        else:
            from galprep_dask.psf.descend import descend

            descend(self.batch, self.solution, alive, prior, warm=warm, **options)

    def _regular(self):
        return self.problem.oversampling > 1 or self.field is not None or self.problem.a_tv > 0

    def _alike(self, alive):
        """Stamps whose adaptive size is like that of the others; all of them where that would leave few."""
        from galprep_dask.psf._kernels.moments import adaptive_moments

        p, s = self.problem, self.solution
        light = np.where(p.good, p.data - s.sky[:, None, None], 0.0)
        found = adaptive_moments(light, sigma=2.0, centre=np.stack([s.dx, s.dy], 1), iterations=40, tolerance=1e-2).fwhm
        typical = np.nanmedian(found[alive]) if np.isfinite(found[alive]).any() else np.nan
        with np.errstate(invalid="ignore"):
            alike = (found < SUSPECT * typical) & (found > typical / SUSPECT)
        return alike if (alike & alive).sum() >= max(0.5 * alive.sum(), 1) else np.ones(len(alive), bool)

    def _flux_error(self):
        return 1 / np.sqrt(np.maximum(self.solution.normal[:, 0, 0], 1e-300))

    def _no_stars(self, alive):
        """Reason for every stamp that the PSF does not explain."""
        s = self.solution
        freedom = np.maximum(s.n_good - 4, 1)
        excess = s.chi2 / freedom - 1
        snr = s.flux / self._flux_error()
        significant = excess / np.sqrt(2 / freedom)
        fraction = np.sqrt(np.maximum(excess, 0) * freedom) / np.maximum(snr, 1)
        typical = np.median(fraction[alive]) if alive.any() else 0.0
        reason = np.where(
            (significant > MISFIT_SIGMAS) & (fraction > np.maximum(MISFIT_RATIO * typical, MISFIT_LEAST)),
            "unlike the PSF", "",
        )  # fmt: skip
        return np.where(snr < FAINTEST, "blank", reason).astype("U20")

    def _predict(self, seen):
        return self._predicted(self.problem.of(seen), self.solution.psf, seen, 0)

    def _predict_stack(self, alive, seen):
        """Predict the same stars from a plain stack of the fitted ones, shifted as an image is."""
        p, s, stars = self.problem, self.solution, np.nonzero(alive)[0]
        stack = stack_of(
            p.data[stars], p.good[stars], p.variance[stars], s.flux[stars], s.dx[stars], s.dy[stars], s.sky[stars]
        )
        plain = replace(p.of(seen), oversampling=1, basis=np.ones((len(seen), 1)))
        return self._predicted(plain, stack[None], seen, 1)

    def _predicted(self, problem, psf, seen, steps):
        """Compare stars with a PSF, to which they are fitted in so many steps from where they are."""
        s = self.solution
        out = Solution(psf, *(values[seen] for values in (s.flux, s.dx, s.dy, s.sky)))
        if not steps:
            out.misfit = s.misfit[seen]
        models = fit_stars(Batch(problem, psf.shape[-1]), out, steps=steps)
        return predicted(problem.data, problem.good, problem.variance, out, models)

    def finished(self, refit, parameters):
        alive = self.reasons == ""
        if refit and self.n_folds:
            self._minimise(alive, warm=True)
        elif self.n_folds > 1:
            self._minimise(self.first_alive & alive, warm=True)
        used = alive if refit or not self.n_folds else self.first_alive & alive
        if not self.solution.converged:
            warnings.warn(
                f"the PSF fit ({self.options['solver']}) had not settled after {len(self.solution.loss_history)} "
                "recorded steps. Raise num_steps.", NotConvergedWarning, stacklevel=3,
            )  # fmt: skip
        return assemble(self, used, parameters)


def _checked(stamps, mask, x, y, oversampling, degree, solver, reserve, dtype):
    """Arrays of the stamps and of good pixels, after everything that can be wrong was looked at."""
    data = np.asarray(stamps)
    if data.ndim != 3 or data.shape[1] != data.shape[2]:
        raise ImageShapeError(f"stamps have shape {data.shape}: (k, n, n) is expected, k square stamps of one size.")
    if len(data) == 0:
        raise TooFewStarsError("there are no stamps. Select stars first.")
    if data.shape[1] % 2 == 0 or data.shape[1] < 5:
        raise ImageShapeError(
            f"stamps are {data.shape[1]} px wide: the side must be odd, at least 5, so that the PSF has a middle "
            f"pixel. Cut stamps of size={data.shape[1] + 1} or {data.shape[1] - 1}."
        )
    if data.dtype.kind not in "fiu":
        raise ParameterError(f"stamps are {data.dtype}: numbers are expected.")
    if not np.issubdtype(data.dtype, np.floating):
        data = data.astype(np.float64)
    good = np.isfinite(data)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != data.shape:
            raise ImageShapeError(f"mask has shape {mask.shape}, but the stamps have {data.shape}.")
        good &= mask == 0
    if not good.any():
        raise NoGoodPixelsError(f"every pixel of the {len(data)} stamps is masked or not finite.")
    if oversampling != "auto" and not (isinstance(oversampling, (int, np.integer)) and 1 <= oversampling <= 8):
        raise ParameterError(f"oversampling={oversampling!r}: an integer from 1 to 8, or 'auto'.")
    if degree != "auto" and not (isinstance(degree, (int, np.integer)) and 0 <= degree <= 4):
        raise ParameterError(f"degree={degree!r}: an integer from 0 to 4, or 'auto'.")
    if solver not in SOLVERS:
        raise ParameterError(f"solver={solver!r}: one of {', '.join(SOLVERS)}.")
    if not 0.2 <= reserve <= 0.5:
        raise ParameterError(f"reserve={reserve!r}: a fraction from 0.2 to 0.5; fewer stars would not prove anything.")
    if str(dtype) not in ("float32", "float64"):
        raise ParameterError(f"dtype={dtype!r}: 'float32' or 'float64'.")
    if degree != 0:
        for name, value in (("x", x), ("y", y)):
            if value is None:
                raise ParameterError(f"degree={degree!r} needs the positions of the stars: pass x= and y=.")
            if np.shape(value) != (len(data),) or not np.isfinite(np.asarray(value, float)).all():
                raise ImageShapeError(f"{name} must hold one finite position for each of the {len(data)} stamps.")
    most = 0
    while most < 4 and 0.8 * len(data) >= (most + 2) * (most + 3):
        most += 1
    return np.where(good, data, 0), good, most


def _variances(data, good, sigma, sky_std, gain, sky):
    """Variance of the background of every pixel, and the good pixels that have one."""
    count = len(data)
    if sigma is not None and sky_std is not None:
        raise ParameterError("both sigma and sky_std are given: pass one of them.")
    if sigma is not None:
        sigma = np.asarray(sigma, data.dtype if data.dtype.kind == "f" else float)
        if sigma.ndim and sigma.shape != data.shape:
            raise ImageShapeError(f"sigma has shape {sigma.shape}, but the stamps have {data.shape}.")
        sigma = np.broadcast_to(sigma, data.shape)
        known = np.isfinite(sigma) & (sigma > 0)
        if not (known & good).any():
            raise ParameterError("sigma is not positive and finite at any good pixel.")
        variance = np.where(known, sigma, 1) ** 2
        if gain:
            photons = np.maximum(data - sky[:, None, None], 0) / gain
            # Beyond the star the photons are few, so the background's part is known best there.
            variance = np.maximum(variance - photons, 0.05 * variance)
            for k in range(count):
                here = good[k] & known[k]
                if here.any():
                    variance[k] = np.median(variance[k][here])
        return variance, good & known
    if sky_std is None:
        level = np.full(count, np.nan)
        for k in range(count):
            pixels = data[k][good[k]]
            if pixels.size:
                low = pixels[pixels <= np.median(pixels)]
                level[k] = 1.4826 * np.median(np.median(pixels) - low)
        # One level for all: a median over many stamps is far better known than each.
        sky_std = np.nanmedian(level)
        if not sky_std > 0:
            sky_std = max(1e-6 * float(np.abs(data).max()), 1e-30)
    sky_std = np.asarray(sky_std, float)
    if sky_std.shape not in ((), (count,)) or not (np.isfinite(sky_std) & (sky_std > 0)).all():
        raise ParameterError("sky_std must be positive and finite: one number, or one a stamp.")
    return np.broadcast_to(np.broadcast_to(sky_std, (count,))[:, None, None] ** 2, data.shape), good


def _grid_for(data, good, variance, gain, sky, dx, dy, flux, fwhm, usable, oversampling):
    """Fine pixels per data pixel, and the slope of the profile that an oversampled P starts from."""
    if oversampling == 1:
        return 1, BETA
    kept = np.nonzero(usable)[0]
    inverse_gain, size = 1 / gain if gain else 0.0, data.shape[-1]
    light = data[kept] - sky[kept, None, None]
    slope, alike = slope_of(light, good[kept], variance[kept], inverse_gain, flux[kept], dx[kept], dy[kept], fwhm)
    if oversampling != "auto":
        return int(oversampling), slope
    bright = kept[np.argsort(-flux[kept], kind="stable")[:TELLING]]
    background = np.median(variance[bright], axis=(1, 2))
    lost = lambda: lost_to_sampling(flux[bright], background, inverse_gain, fwhm, slope, size)  # noqa: E731
    return needed_oversampling(fwhm, lost if alike else float), slope


def _unusable(good, fwhm):
    """Reason for every stamp that has too few good pixels."""
    size = good.shape[-1]
    r = np.hypot(*np.meshgrid(*(np.arange(size) - (size - 1) / 2,) * 2))
    core = r <= max(CORE_FWHM * fwhm, 1.5)
    left = good[:, core].mean(1)
    return np.where(left < LEAST_CORE, "masked", "").astype("U20")
