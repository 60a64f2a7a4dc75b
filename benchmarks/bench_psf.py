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

from harness import machine  # noqa: E402
from psf_peers import PEERS  # noqa: E402
from psf_real import real  # noqa: E402
from psf_scenes import SCENES, error, predict, scene  # noqa: E402
from simulated_stars import cramer_rao, field_of, integrated, moffat, quadratic, stars  # noqa: E402

from galprep_dask.psf import fit_psf  # noqa: E402

GAIN = 5.0
PARTS = ["memory", "compare", "varying", "bounds", "times", "losses", "field"]
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


def varying(count, seeds, peers):
    """
    Print errors of a PSF that varies over several fields of stars: one field may suit one program by chance.

    In the middle, in a corner and at nine places of the field, RMS over the fields.
    """
    places = [(a, b) for a in (200.0, 1000.0, 1800.0) for b in (200.0, 1000.0, 1800.0)]
    print(f"\nvarying, {seeds} fields of {8 * count // 5} stars: centre, corner, nine places")
    for peer in peers:
        found = []
        for seed in range(1, seeds + 1):
            told = scene("varying", count, seed)
            try:
                render = PEERS[peer](told.fitted)
            except (ImportError, FileNotFoundError):
                print(f"{peer:12} not installed", flush=True)
                break
            errors = [error(render, told.profile_at(*at), 31, *at) for at in [*told.positions.values(), *places]]
            found.append([*errors[:2], np.sqrt(np.mean(np.square(errors[2:])))])
        else:
            rms = np.sqrt(np.mean(np.square(found), axis=0))
            each = "; ".join(" ".join(f"{value:.2f}" for value in row) for row in found)
            print(f"{peer:12} " + " ".join(f"{value:7.2f}" for value in rms) + f"   ({each})", flush=True)


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
            ratios.append(np.sqrt(np.mean(difference**2)) / cramer_rao(truth, mask, of_sum_one=True))
            covered.append(np.mean(np.abs(difference) < model.sigma))
        print(f"skies {'free' if local_sky else 'known'}: {np.mean(ratios):.3f} x Cramer-Rao over {seeds} fields "
              f"(largest {max(ratios):.3f}), sigma covers {100 * np.mean(covered):.1f} %")  # fmt: skip
    sharp, covered = moffat(1.5, e1=0.05), []
    for seed in range(seeds):
        data, mask, truth = stars(sharp, count, 31, gain=GAIN, seed=seed, subpixels=9)
        model = fit_psf(data, mask=mask, sky_std=1.0, gain=GAIN, oversampling=3, local_sky=False)
        covered.append(np.mean(np.abs(model.image - truth["psf"] / truth["psf"].sum()) < model.sigma))
    print(f"FWHM 1.5 px at oversampling 3: sigma covers {100 * np.mean(covered):.1f} %")
    # The same noise with both signs: what it does to first order goes out of the mean, and the bias is left.
    scatter, bias = [], []
    for seed in range(4 * seeds):
        data, _, truth = stars(profile, 100, 31, snr=100.0, seed=seed, masks=False, rays=False)
        clean = stars(profile, 100, 31, snr=100.0, seed=seed, masks=False, rays=False, noise=False)[0]
        both = np.array([fit_psf(d, sky_std=1.0, local_sky=False).image for d in (data, 2 * clean - data)])
        found, true = adaptive_moments(both), adaptive_moments(truth["psf"][None])
        off = np.array([found.size / true.size - 1, found.e1 - true.e1, found.e2 - true.e2])
        scatter.append(off[:, 0])
        bias.append(off.mean(1))
    error = np.std(bias, axis=0) / np.sqrt(len(bias))
    rms, mean, least = np.sqrt(np.mean(np.square(scatter), axis=0)), np.mean(bias, axis=0), shape_bound(truth)
    print(f"100 stars of S/N 100, {2 * len(bias)} fits:")
    for name, *told in zip(("dT/T", "de1", "de2"), mean, error, rms, least, strict=True):
        print("  {}: mean {:+.6f} +- {:.6f}; a field scatters by {:.5f}, Cramer-Rao bound {:.5f}".format(name, *told))


def shape_bound(truth):
    """Cramer-Rao bound on dT/T, e1 and e2 of P, whose pixels are free: their noise through the moments' slopes."""
    from galprep_dask.psf._kernels.moments import adaptive_moments

    psf = truth["psf"] / truth["psf"].sum()
    noise = 1 / (truth["flux"][:, None, None] ** 2 / truth["variance"]).sum(0)
    steps = 1e-4 * psf.max() * np.eye(psf.size).reshape(-1, *psf.shape)
    up, down = adaptive_moments(psf + steps), adaptive_moments(psf - steps)
    slopes = [(a - b) / (2e-4 * psf.max()) for a, b in ((np.log(up.size), np.log(down.size)), (up.e1, down.e1),
                                                        (up.e2, down.e2))]  # fmt: skip
    return [np.sqrt((slope**2 * noise.ravel()).sum()) for slope in slopes]


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
    """
    Loss of every solver with the same sigma and the same pixels.

    The mean is over pixels that the shifted P covers. A P that drifts takes its stars the other way, and loses some of
    them: so all are put into the middle before they are looked at.
    """
    from dataclasses import replace

    from galprep_dask.psf.descend import descend
    from galprep_dask.psf.gauge import centred
    from galprep_dask.psf.solve import Batch, Problem, Solution, fit_stars, minimise
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
            batch, every, before = Batch(replace(problem), size), np.ones(count, bool), time.process_time()
            run(batch, solution, every)
            taken = time.process_time() - before
        settled = "settled" if solution.converged else "not settled"
        solution.psf, x, y = centred(solution.psf, 1)
        solution.dx, solution.dy = solution.dx + x, solution.dy + y
        fit_stars(batch, solution, steps=0)
        loss = 0.5 * solution.chi2.sum() / solution.n_good.sum()
        told = f"{settled}, {solution.n_good.sum():.0f} pixels, was {np.hypot(x, y):.3f} px off the middle"
        print(f"{name:24} {loss:.7f} {taken:8.2f} s of the processor, {told}", flush=True)


def memory(count, size):
    """Fit many stars: what the process holds at most beyond its imports and the stamps, in GiB."""
    import resource

    import galprep_dask.psf._kernels.newton  # noqa: F401 - JAX

    profile = moffat(3.0)
    few, _, _ = stars(profile, 100, size, gain=GAIN, seed=1, masks=False, rays=False)
    rng = np.random.default_rng(0)
    data = few[np.arange(count) % 100].astype("f4")
    data += rng.standard_normal(data.shape, dtype="f4")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = time.process_time()
    model = fit_psf(data, sky_std=2**0.5, gain=GAIN)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"{count} stars of {size} x {size} ({data.nbytes / 2**20:.0f} MiB): {used:.2f} GiB more, "
          f"{time.process_time() - cpu:.1f} s of the processor with compilation, converged {model.converged}, "
          f"reserved chi2 {model.validation['reduced_chi2']:.3f}")  # fmt: skip


def field(count):
    """
    Fit a PSF that varies: errors in the middle and in the four corners of the stars, and the order that is chosen.

    The bound is that of polynomials with free pixels; a prior of how PSFs vary goes below it.
    """
    data, _, x, y, truth = field_of(quadratic, count, 31, seed=3, snr=(100, 600))
    information = sum((told["flux"] ** 2)[:, None, None] / told["variance"] for told in truth).sum(0)
    places = {"centre": [(0, 0)], "corners": [(a, b) for a in (-0.8, 0.8) for b in (-0.8, 0.8)]}
    for degree in (0, 2, "auto"):
        model = fit_psf(data, x=x, y=y, sky_std=1.0, gain=GAIN, degree=degree, local_sky=False)
        print(f"field, degree {degree} ({model.degree}): reserved chi2 {model.validation['reduced_chi2']:.3f}")
        for name, at in places.items():
            found, bound = [], []
            for u, v in at:
                place = 1000 * (u + 1), 1000 * (v + 1)
                render = lambda dx, dy, x, y, model=model: model.at(x, y, dx=dx, dy=dy)  # noqa: E731
                found.append(error(render, quadratic(u, v), 31, *place))
                lever = 1.0 if model.field is None else np.sum(model.field.basis(*place)[0] ** 2)
                true = integrated(quadratic(u, v), 0, 0, 31)
                bound.append(1e4 * np.sqrt(lever * np.mean(1 / information)) / (true / true.sum()).max())
            rms = np.sqrt(np.mean(np.square([found, bound]), axis=1))
            print(f"  {name}: error {rms[0]:.2f}, largest {max(found):.2f}, bound with free pixels {rms[1]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=list(SCENES))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--stars", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=4, help="fields of parts 'varying' and 'bounds'")
    parser.add_argument("--adam", type=int, default=0, help="steps of Adam at 2e-5")
    parser.add_argument("--parts", nargs="*", choices=[*PARTS, "real"], default=PARTS)
    parser.add_argument("--data", help="folder of real images, for part 'real'")
    options = parser.parse_args()
    if "real" in options.parts and not options.data:
        parser.error("part 'real' needs --data, the folder of real images")
    warnings.simplefilter("ignore")
    print(machine())
    if "memory" in options.parts:  # first: a process remembers the most that it ever held
        memory(5000, 41)
    if "compare" in options.parts:
        for name in options.scenes:
            compare(name, options.stars, 1, options.peers)
    if "varying" in options.parts:
        varying(options.stars, options.seeds, options.peers)
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
