"""
PSF: error against truth, prediction of reserved stars and time, beside PSFEx, EPSFBuilder, Piff, PSFr and a stack.

Run ``python benchmarks/bench_psf.py [--scenes NAME ...] [--stars N]``. All take the same stamps in the same
run; whichever is not installed is left out (``psfex`` is a program of its own, ``piff`` and ``psfr``, which needs
``lenstronomy``, are packages of PyPI). Every fifth star is kept out and predicted by all. Errors are RMS over the stamp
and over nine places within a pixel, in 1e-4 of the peak; each PSF is first given the flux, and the place, that fit the
truth best, so that nobody pays for another centre or sum. ``--data FOLDER`` does the same on stars of real images.
Times are of the processor, of a second call. ``--adam N`` also descends with Adam at 2e-5 for N steps. See README.md
beside this file for how to read the ratios.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from psf_peers import PEERS  # noqa: E402
from psf_real import real  # noqa: E402
from psf_scenes import SCENES, error, predict, scene  # noqa: E402
from simulated_stars import cramer_rao, field_of, moffat, quadratic, stars  # noqa: E402

from galprep_dask.psf import fit_psf  # noqa: E402

GAIN = 5.0
#: S/N of the reserved stars whose chi2 is also given by itself: they tell most.
BRIGHT = 300


def compare(name, count, seed, peers):
    """Print error against truth and chi2 of reserved stars of every program, all fitted to the same other stars."""
    told = scene(name, count, seed)
    fitted, reserved = told.fitted, told.reserved
    size, bright = fitted.data.shape[-1], _snr(reserved) > BRIGHT
    print(f"\n{name}: {len(fitted.data)} stars fitted, {len(reserved.data)} predicted ({bright.sum()} of S/N above "
          f"{BRIGHT}), {size} x {size} px, FWHM {fitted.fwhm} px, S/N 30 to 1500")  # fmt: skip
    print(f"{'':12} {'error' + ' ' * (8 * (len(told.positions) - 1)):>8} {'chi2':>8} {'bright':>8} {'cpu s':>8}")
    for peer in peers:
        try:
            render, taken = _timed(peer, fitted)
            found = [error(render, told.profile_at(*at), size, *at) for at in told.positions.values()]
            chi2, _ = predict(render, reserved)
        except (ImportError, FileNotFoundError):
            print(f"{peer:12} not installed", flush=True)
            continue
        except Exception as problem:
            print(f"{peer:12} failed: {type(problem).__name__}: {str(problem)[:90]}", flush=True)
            continue
        errors = " ".join(f"{value:7.2f}" for value in found)
        print(f"{peer:12} {errors} {np.median(chi2):8.3f} {np.mean(chi2[bright]):8.3f} {taken:8.2f}", flush=True)


def _snr(stars):
    """S/N of stars: that of their light in a circle."""
    size = stars.data.shape[-1]
    iy, ix = np.mgrid[:size, :size] - size // 2
    inside = np.hypot(ix, iy) < 1.5 * stars.fwhm
    good = inside & ~stars.mask
    return (stars.data * good).sum((1, 2)) / np.sqrt((stars.variance * good).sum((1, 2)))


def _timed(peer, stars):
    """Give a program's PSF and the processor's seconds for it, what it starts included; ours is called twice."""
    if peer == "galprep":
        PEERS[peer](stars)
    before, children = time.process_time(), _children()
    render = PEERS[peer](stars)
    return render, time.process_time() - before + _children() - children


def _children():
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bounds(count, seeds):
    """Ratio of the error to the Cramer-Rao bound, coverage of sigma, bias of size and ellipticity."""
    from galprep_dask.psf._kernels.moments import adaptive_moments

    profile = moffat(3.6, e1=0.05)
    for local_sky in (False, True):
        ratios, covered = [], []
        for seed in range(seeds):
            data, mask, truth = stars(profile, count, 51, gain=GAIN, seed=seed, sky_scatter=0.1 * local_sky)
            model = fit_psf(data, mask=mask, sky_std=1.0, gain=GAIN, local_sky=local_sky)
            difference = model.image - truth["psf"] / truth["psf"].sum()
            ratios.append(np.sqrt(np.mean(difference**2)) / cramer_rao(truth, mask))
            covered.append(np.mean(np.abs(difference) < model.sigma))
        print(f"skies {'free' if local_sky else 'known'}: {np.mean(ratios):.3f} x Cramer-Rao over {seeds} fields "
              f"(largest {max(ratios):.3f}), sigma covers {100 * np.mean(covered):.1f} %")  # fmt: skip
    found = []
    for seed in range(2 * seeds):
        data, _, truth = stars(profile, 100, 31, snr=100.0, seed=seed, masks=False, rays=False)
        a = adaptive_moments(fit_psf(data, sky_std=1.0, local_sky=False).image[None])
        b = adaptive_moments(truth["psf"][None])
        found.append((a.size[0] / b.size[0] - 1, a.e1[0] - b.e1[0], a.e2[0] - b.e2[0]))
    found = np.array(found)
    mean, scatter = found.mean(0), found.std(0)
    print(f"100 stars of S/N 100, mean of {len(found)} fields: dT/T {100 * mean[0]:+.3f} % (a field scatters by "
          f"{100 * scatter[0]:.3f} %), de1 {mean[1]:+.5f} ({scatter[1]:.5f}), "
          f"de2 {mean[2]:+.5f} ({scatter[2]:.5f})")  # fmt: skip


def times(count, size):
    """First and second call of a fit of large stamps, and the other solvers' losses at given time."""
    profile = moffat(3.6, e1=0.05)
    data, mask, _ = stars(profile, count, size, gain=GAIN, seed=1, subpixels=3)
    for label in ("with compilation", "warm"):
        wall, cpu = time.perf_counter(), time.process_time()
        model = fit_psf(data, mask=mask, sky_std=1.0, gain=GAIN)
        print(f"{count} stars of {size} x {size}, {label}: {time.perf_counter() - wall:.2f} s, of the processor "
              f"{time.process_time() - cpu:.2f} s; {model.validation['n_reserved']} reserved, chi2 "
              f"{model.validation['reduced_chi2']:.3f}")  # fmt: skip


def losses(count, size, adam_steps):
    """Loss of every solver with the same sigma and the same pixels."""
    from dataclasses import replace

    from galprep_dask.psf.descend import descend
    from galprep_dask.psf.solve import Batch, Problem, Solution, minimise
    from galprep_dask.psf.start import moffat_psf, starting_values

    profile = moffat(3.6, e1=0.05)
    data, mask, truth = stars(profile, count, size, gain=GAIN, seed=1, subpixels=3, rays=False)
    sky, dx, dy, flux, fwhm = starting_values(data, ~mask)
    # Sigma is given, so that all minimise one function.
    problem = Problem(data, ~mask, truth["variance"], np.ones((count, 1)), 1, clip=1e6, free_sky=False)
    start = Solution(moffat_psf(fwhm, size, size, 1)[None], flux, dx, dy, 0 * sky)
    runs = [("newton", lambda b, s, a: minimise(b, s, a)), ("lbfgs", lambda b, s, a: descend(b, s, a, solver="lbfgs"))]
    cosine = {"learning_rate": 3e-4, "num_steps": 4000, "schedule": "cosine"}
    runs.append(("adam 3e-4 cosine 4000", lambda b, s, a: descend(b, s, a, **cosine)))
    if adam_steps:
        runs.append((f"adam 2e-5 {adam_steps}", lambda b, s, a: descend(b, s, a, num_steps=adam_steps)))
    print(f"\nloss at given sigma, {count} stars of {size} x {size}")
    for name, run in runs:
        for _ in range(1 if adam_steps and name.startswith("adam 2e-5") else 2):
            solution = Solution(start.psf.copy(), flux.copy(), dx.copy(), dy.copy(), 0 * sky)
            before = time.process_time()
            run(Batch(replace(problem), size), solution, np.ones(count, bool))
            taken = time.process_time() - before
        print(f"{name:24} {solution.loss_history[-1]:.7f} {taken:8.2f} s of the processor", flush=True)


def field(count):
    """Fit a PSF that varies: errors over the field, and the order that reserved stars choose."""
    data, _, x, y, _ = field_of(quadratic, count, 31, seed=3, snr=(100, 600))
    for degree in (0, 2, "auto"):
        model = fit_psf(data, x=x, y=y, sky_std=1.0, gain=GAIN, degree=degree, local_sky=False)
        found = {}
        for place, (u, v) in {"centre": (0, 0), "corner": (0.9, 0.9)}.items():
            at = 1000 * (u + 1), 1000 * (v + 1)
            found[place] = error(
                lambda dx, dy, x, y, model=model: model.at(x, y, dx=dx, dy=dy), quadratic(u, v), 31, *at
            )
        print(f"field, degree {degree} ({model.degree}): error {found['centre']:.2f} in the centre, "
              f"{found['corner']:.2f} in a corner; reserved chi2 {model.validation['reduced_chi2']:.3f}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--stars", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--adam", type=int, default=0, help="steps of Adam at 2e-5")
    parser.add_argument("--parts", nargs="*", default=["compare", "bounds", "times", "losses", "field"])
    parser.add_argument("--data", help="folder of real images, for part 'real'")
    options = parser.parse_args()
    if "real" in options.parts and not options.data:
        parser.error("part 'real' needs --data, the folder of real images")
    warnings.simplefilter("ignore")
    if "compare" in options.parts:
        for name in options.scenes:
            compare(name, options.stars, 1, options.peers)
    if "bounds" in options.parts:
        bounds(options.stars, options.seeds)
    if "times" in options.parts:
        times(150, 81)
    if "losses" in options.parts:
        losses(60, 41, options.adam)
    if "field" in options.parts:
        field(200)
    if options.data:
        real(options.data, options.peers)


if __name__ == "__main__":
    main()
