"""One fit: a PSF of one degree, the stars that are none found, reserved stars predicted."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from galprep_dask.errors import NotConvergedWarning, TooFewStarsError
from galprep_dask.psf._kernels.moments import adaptive_moments
from galprep_dask.psf.assemble import assemble
from galprep_dask.psf.field import make_field
from galprep_dask.psf.gauge import fix_gauge, rendered_stars, resolved
from galprep_dask.psf.modes import find_modes
from galprep_dask.psf.prior import first_prior, held_prior, learned_prior, released
from galprep_dask.psf.solve import Batch, Solution, follow, minimise
from galprep_dask.psf.stack import stack_of
from galprep_dask.psf.validate import folds_of, predicted, summarised

__all__ = ["OneFit"]

#: S/N below which a stamp is blank.
FAINTEST = 5.0
#: A star is no star when its misfit is significant by this many sigmas, above this multiple of the others', and above
#: this fraction of its light.
MISFIT_SIGMAS, MISFIT_RATIO, MISFIT_LEAST = 6.0, 4.0, 0.1
#: A first fit leaves out stamps whose size differs from the others' by more than this factor.
SUSPECT = 1.25
#: Rounds of Newton's method at most, whatever is asked for: scripts that ask for thousands mean the steps of Adam.
MOST_ROUNDS = 200
#: Highest degree of what follows from size and shape, and steps in which a first guess is made of it.
HIGHEST, FEW_STEPS = 4, 4
#: Stars per coefficient that this takes.
PER_TERM = 4
#: FWHM of a Gaussian over its standard deviation.
FWHM = 2.3548
#: A higher degree is chosen when it lowers chi2 of reserved stars by more than this per star.
WORTH = 1.0


class OneFit:
    """A PSF of one degree, fitted and validated; ``finished`` makes the model of it."""

    def __init__(self, problem, start, reasons, snr, fwhm, x, y, degree, reserve, seed, options):
        usable = reasons == ""
        self.problem, self.options, self.field = problem, options, None
        self.free, self.mean_variance = 1, 0.0
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
            # Size and shape may vary to twice the degree, as far as there are stars for that.
            total = min(2 * degree, max(degree, HIGHEST))
            while total > degree and PER_TERM * (total + 1) * (total + 2) > 2 * fitted:
                total -= 1
            self.field = make_field(np.asarray(x)[kept], np.asarray(y)[kept], degree, weight[kept] + 1e-12, total)
            self.free, self.weight = terms, weight
            # Stars that are left out may lie anywhere; they are looked at as if in the middle.
            anywhere = [np.where(usable, at, np.mean(np.asarray(at)[kept])) for at in (x, y)]
            basis = self.field.basis(*anywhere)
            self.problem = problem = replace(problem, basis=basis)
        self.batch = Batch(problem, start.psf.shape[-1])
        terms = problem.basis.shape[1]
        psf = np.concatenate([start.psf, np.zeros((terms - 1, *start.psf.shape[1:]))])
        self.prior = first_prior(psf, problem, start.flux, usable, fwhm)
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
                raise TooFewStarsError(
                    "no stamp looks like the others: there is no star to be fitted. Look at the stamps, and check "
                    "gain=, in electrons per unit of the pixels, and the noise given."
                )
            if not (alive & ~fine).any():  # those that only looked odd at first join in the last fit
                break
            alive = fine
        return alive

    def _minimise(self, alive, warm=False):
        if self._regular() and not warm:
            # Whatever the solver, Newton's method is quick enough to find out how far the stars are from the start.
            newton = self.options["solver"] == "newton"
            first = self.solution if newton else replace(self.solution, loss_history=[])
            if self.field is not None:
                level = np.sum(first.flux[alive] ** 2) / np.median(self.problem.variance)
                self.prior = held_prior(self.prior, self.free, level)
            self._newton(first, alive, 5)
            fix_gauge(first, self.problem, alive)  # the start is in the middle and of sum 1
            if self.prior.strength.any():
                self.prior = released(self.prior, first)
            self.loose = self.prior
            if self.field is not None:
                self._learn(first, alive)
            warm = newton
        self._run(alive, warm)
        self.level_variance = fix_gauge(self.solution, self.problem, alive)

    def _learn(self, first, alive):
        """Learn from a first fit how P varies, and begin there."""
        s, fine = self.problem.oversampling, first.psf.shape[-1]
        if self.free < len(first.psf):
            # A few steps tell where the higher coefficients would go.
            loose = self.prior._replace(shrink=np.zeros_like(self.prior.shrink))
            minimise(self.batch, first, alive, loose, rounds=1, steps=FEW_STEPS, warm=True)
        around = adaptive_moments(first.psf[:1], sigma=1.5 * s)
        width = float(np.clip(np.nan_to_num(around.fwhm[0], nan=3.0 * s) / FWHM, 0.7 * s, fine / 8))
        modes = find_modes(first.psf, first.diagonal, self.problem.basis, self.weight, self.free, width)
        self.prior = learned_prior(self.prior, first.diagonal, s, modes.mean, modes.rest, self.free)
        self.solution.psf[1:], self.mean_variance = modes.mean[1:], modes.variance

    def _run(self, alive, warm):
        """Run the solver."""
        if self.options["solver"] == "newton":
            self._newton(self.solution, alive, MOST_ROUNDS, warm)
        else:
            from galprep_dask.psf.descend import descend

            prior = self.prior if self._regular() else None
            descend(self.batch, self.solution, alive, prior, warm=warm, **self.options)

    def _newton(self, solution, alive, most, warm=False):
        """Run Newton's method for no more than ``most`` rounds."""
        # The total variation ties pixels to their neighbours, which the preconditioner knows nothing of, and it is no
        # quadratic.
        rounds, steps = (60, 100) if self.problem.a_tv > 0 else (20, 12)
        rounds, prior = min(self.options["num_steps"] or rounds, most), self.prior if self._regular() else None
        minimise(self.batch, solution, alive, prior, rounds=rounds, steps=steps, warm=warm)

    def _regular(self):
        return bool(self.prior.strength.any()) or self.field is not None or self.problem.a_tv > 0

    def _alike(self, alive):
        """Stamps whose adaptive size is like that of the others; all of them where that would leave few."""
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
        snr = s.flux / self._flux_error()
        excess = s.chi2 / freedom - 1 - self._unknown(alive, np.maximum(snr, 0) ** 2)
        significant = excess / np.sqrt(2 / freedom)
        fraction = np.sqrt(np.maximum(excess, 0) * freedom) / np.maximum(snr, 1)
        typical = np.median(fraction[alive]) if alive.any() else 0.0
        reason = np.where(
            (significant > MISFIT_SIGMAS) & (fraction > np.maximum(MISFIT_RATIO * typical, MISFIT_LEAST)),
            "unlike the PSF", "",
        )  # fmt: skip
        return np.where(snr < FAINTEST, "blank", reason).astype("U20")

    def _unknown(self, alive, weight):
        """
        Variance of P over that of a star's own pixels, where P has not seen the star.

        It is its leverage: in a corner that no other star is near a polynomial may be anything, and a star that is
        much brighter than the others shows their noise.
        """
        basis = self.problem.basis[:, : self.free]
        normal = basis[alive].T @ (weight[alive, None] * basis[alive])
        normal += 1e-9 * np.trace(normal) * np.eye(len(normal))
        known = np.einsum("km,mn,kn->k", basis, np.linalg.inv(normal), basis)
        return np.where(alive, 0.0, weight * known)

    def _predict(self, seen):
        """Compare stars with the PSF; they have followed it with their own parameters already."""
        return self._predicted(self.solution, seen)

    def _predict_stack(self, alive, seen):
        """Predict the same stars from a plain stack of the fitted ones, shifted as an image is."""
        p, s, stars = self.problem, self.solution, np.nonzero(alive)[0]
        stack = stack_of(
            p.data[stars], p.good[stars], p.variance[stars], s.flux[stars], s.dx[stars], s.dy[stars], s.sky[stars]
        )
        # On the grid of P and beside all other stars, for which everything is compiled already.
        psf = np.zeros_like(s.psf)
        psf[0] = resolved(stack, s.psf.shape[-1], p.oversampling)
        out = Solution(psf, s.flux, s.dx, s.dy, s.sky)
        follow(self.batch, out, self.prior if self._regular() else None)
        return self._predicted(out, seen)

    def _predicted(self, solution, seen):
        p = self.problem
        parts = {name: getattr(solution, name)[seen] for name in ("flux", "dx", "dy", "sky", "chi2", "n_good")}
        out = Solution(solution.psf, **parts)
        models = rendered_stars(solution.psf, p.basis[seen], out.dx, out.dy, p.data.shape[-1], p.oversampling)
        return predicted(p.data[seen], p.good[seen], p.variance[seen], out, models)

    def finished(self, refit, parameters):
        """Fit all stars, the reserved ones too where ``refit``, and make the model of it."""
        alive = self.reasons == ""
        if refit and self.n_folds:
            if self.field is not None and (alive & ~self.first_alive).any():
                # How the PSF varies is told best by the stars that were reserved, too: corners have few.
                self.prior = self.loose
                self._newton(self.solution, alive, 5, warm=True)
                fix_gauge(self.solution, self.problem, alive)
                self._learn(self.solution, alive)
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
