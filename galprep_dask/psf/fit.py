"""Fit of a PSF to many stars together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from galprep_dask.arrays import is_whole
from galprep_dask.cluster import as_one_task, computes_on_cluster, is_task
from galprep_dask.errors import ParameterError, TooFewStarsError
from galprep_dask.psf.given import check_numbers, checked_stamps, grid_for, unusable_stamps, variances_of
from galprep_dask.psf.model import PSFModel
from galprep_dask.psf.neighbours import without_neighbours
from galprep_dask.psf.one_fit import OneFit
from galprep_dask.psf.solve import Problem, Solution, precision
from galprep_dask.psf.start import moffat_psf, starting_values
from galprep_dask.psf.wings import join_wings

__all__ = ["fit_psf"]


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
        shifted at the data's own sampling; 2 where stars show what that sampling loses of their profile; else 1. Stars
        with an Airy pattern that the data's pixels show in full lose nothing: 1 for these, however sharp.
        ``oversampling`` of the result and its repr say what was chosen.
    degree : int or "auto"
        Total degree, 0 to 4, of the polynomials in (x, y) by which every pixel of P varies; what follows from its size
        and shape may vary to twice that, up to 4, where there are stars enough. "auto": the degree that predicts
        reserved stars best.
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
    preconditioned conjugate gradients [1]_. P is drawn to a Moffat profile like the stars at the frequencies where
    that has less light than there is noise, and let go of where a first fit shows that it is another; so its error is
    below the Cramer-Rao bound of free pixels. Coefficients that vary over the field are drawn to what the stars show
    of size, shape and few other modes.

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
    data, good, degree_max = checked_stamps(stamps, mask, x, y, oversampling, degree, solver, reserve, dtype)
    scales = {"learning_rate": learning_rate, "clip": clip} | ({} if gain is None else {"gain": gain})
    check_numbers(num_steps, {"a_TV": a_TV, "a_sky": a_sky}, scales)
    if neighbours not in ("mask", "fit"):
        raise ParameterError(f"neighbours={neighbours!r}: 'mask' or 'fit'.")
    if not (is_whole(seed) and seed >= 0):
        raise ParameterError(f"seed={seed!r}: an integer, 0 or more.")
    count, size = data.shape[:2]
    sky, dx, dy, flux, fwhm = starting_values(data, good)
    if not local_sky:
        sky = np.zeros(count)
    variance, good = variances_of(data, good, sigma, sky_std, gain, sky)
    reasons = unusable_stamps(good, fwhm)
    usable = reasons == ""
    if not usable.any():
        raise TooFewStarsError(f"none of the {count} stamps has enough good pixels in its middle to be fitted.")
    if not (flux[usable] > 0).any():
        raise TooFewStarsError(f"none of the {usable.sum()} usable stamps is brighter in its middle than around it.")
    chosen, slope = grid_for(
        data, good, variance, gain, sky, dx, dy, flux, fwhm, usable, oversampling, varies=degree != 0
    )
    fine = size * chosen - (size * chosen + 1) % 2
    problem = Problem(
        data, good, variance, np.ones((count, 1)), chosen, 1 / gain if gain else 0.0, clip, local_sky, a_TV, a_sky,
        core=int(np.clip(np.ceil(fwhm), 2, size // 2)), dtype=dtype,
    )  # fmt: skip
    start = Solution(moffat_psf(fwhm, size, fine, chosen, slope)[None], flux, dx, dy, sky)
    snr = flux / np.sqrt(np.median(variance) * (fwhm * 1.5) ** 2)
    options = {"solver": solver, "num_steps": num_steps, "learning_rate": learning_rate}
    with precision(dtype):
        best, failed = None, 0
        for trial in range(degree_max + 1) if degree == "auto" else (degree,):
            fitted = OneFit(problem, start, reasons.copy(), snr, fwhm, x, y, trial, reserve, seed, options)
            if neighbours == "fit":
                # What was found is taken off, and the fit begins again; the second time the PSF is good enough to stay.
                found = None
                for _ in range(2):
                    observed = replace(problem, basis=fitted.problem.basis)
                    cleaned, found = without_neighbours(observed, fitted.solution, fwhm, found)
                    if not len(found):
                        break
                    begin = replace(fitted.solution, psf=start.psf, loss_history=[])
                    cleaned = replace(cleaned, basis=problem.basis)
                    fitted = OneFit(cleaned, begin, reasons.copy(), snr, fwhm, x, y, trial, reserve, seed, options)
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
