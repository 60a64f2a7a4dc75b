"""
PSF: error against truth, prediction of reserved stars and time, beside PSFEx, EPSFBuilder, Piff, PSFr and a stack.

Run ``python benchmarks/bench_psf.py [--scenes NAME ...] [--stars N]``. All take the same stamps in the same
run; whichever is not installed is left out (``psfex`` and ``source-extractor`` are programs of their own, ``piff`` and
``psfr`` packages of PyPI). Errors are RMS over the stamp and over nine places within a pixel, in 1e-4 of the peak; each
PSF is first given the flux, and the place, that fit the truth best, so that nobody pays for another centre or sum.
Times are of the processor, of a second call. ``--adam N`` also descends with Adam at 2e-5 for N steps. See README.md
beside this file for how to read the ratios.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from simulated_stars import cramer_rao, field_of, integrated, moffat, quadratic, stars  # noqa: E402

from galprep_dask.psf import fit_psf, read_psfex, stack_psf  # noqa: E402

GAIN = 5.0
PLACES = [(a, b) for a in (-0.4, 0.05, 0.35) for b in (-0.3, 0.0, 0.45)]


def error(render, profile, size):
    """RMS of ``render(dx, dy)`` against the truth at PLACES in 1e-4 of the peak, flux and centre fitted."""
    found, peak = [], integrated(profile, 0, 0, size).max()
    for dx, dy in PLACES:
        true = integrated(profile, dx, dy, size)
        true = true / true.sum()
        image = render(dx=dx, dy=dy)
        step = 0.02
        slopes = [
            (integrated(profile, dx + a, dy + b, size) - integrated(profile, dx - a, dy - b, size)) / (2 * step)
            for a, b in ((step, 0), (0, step))
        ]
        columns = np.stack([true.ravel(), *(slope.ravel() for slope in slopes)], 1)
        difference = (image - true).ravel()
        difference = difference - columns @ np.linalg.lstsq(columns, difference, rcond=None)[0]
        found.append(difference)
    return 1e4 * np.sqrt(np.mean(np.square(found))) / peak


def ours(data, mask, oversampling, fwhm, **kwargs):
    model = fit_psf(data, mask=mask, sky_std=1.0, gain=GAIN, oversampling=oversampling, local_sky=False, **kwargs)
    return lambda dx, dy: model.at(dx=dx, dy=dy), model.validation["reduced_chi2"]


def stack(data, mask, oversampling, fwhm):
    model = stack_psf(data, mask=mask, local_sky=False)
    return lambda dx, dy: model.at(dx=dx, dy=dy), None


def epsf_builder(data, mask, oversampling, fwhm):
    from photutils.psf import EPSFBuilder, EPSFStar, EPSFStars

    size = data.shape[-1]
    middle = (size - 1) / 2
    cut = [
        EPSFStar(
            np.where(bad, 0.0, image), weights=np.where(bad, 0.0, 1 / np.sqrt(1 + np.maximum(image, 0) / GAIN)),
            cutout_center=(middle, middle),
        )
        for image, bad in zip(data, mask, strict=True)
    ]  # fmt: skip
    epsf, _ = EPSFBuilder(oversampling=oversampling, maxiters=10, progress_bar=False)(EPSFStars(cut))
    iy, ix = np.mgrid[:size, :size] - middle

    def render(dx, dy):
        image = epsf.evaluate(ix, iy, 1.0, dx, dy)
        return image / image.sum()

    return render, None


def piff(data, mask, oversampling, fwhm):
    import galsim
    import piff

    size = data.shape[-1]
    middle = (size - 1) / 2

    def star(image, weight):
        drawn = galsim.Image(np.ascontiguousarray(image), xmin=0, ymin=0, scale=1.0)
        return piff.Star(
            piff.StarData(
                drawn, galsim.PositionD(middle, middle), weight=galsim.Image(weight, xmin=0, ymin=0, scale=1.0)
            ),
            None,
        )

    noise = 1 + np.maximum(data, 0) / GAIN
    each = zip(data, mask, noise, strict=True)
    sample = [star(np.where(bad, 0.0, a), np.where(bad, 0.0, 1 / v)) for a, bad, v in each]
    scale = 1.0 / oversampling
    model = piff.PixelGrid(scale=scale, size=min(size, 25) * oversampling, interp="Lanczos(7)")
    psf = piff.SimplePSF(model, piff.Mean())
    psf.fit(sample, wcs={0: galsim.PixelScale(1.0)}, pointing=None)

    def render(dx, dy):
        empty = galsim.Image(size, size, xmin=0, ymin=0, scale=1.0)
        image = psf.draw(x=middle, y=middle, center=(middle + dx, middle + dy), image=empty, chipnum=0)
        return image.array / image.array.sum()

    return render, None


def psfex(data, mask, oversampling, fwhm):
    size, side = data.shape[-1], int(np.ceil(np.sqrt(len(data))))
    rng = np.random.default_rng(0)
    box = size + 10
    image = rng.normal(0, 1, (side * box + 10,) * 2).astype("f4")
    weight = np.ones_like(image)
    for k, (stamp, bad) in enumerate(zip(data, mask, strict=True)):
        y, x = 10 + k // side * box, 10 + k % side * box
        image[y : y + size, x : x + size], weight[y : y + size, x : x + size] = stamp, ~bad
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        fits.writeto(folder / "image.fits", image)
        fits.writeto(folder / "weight.fits", weight)
        names = "NUMBER X_IMAGE Y_IMAGE FLUX_APER(1) FLUXERR_APER(1) FLUX_RADIUS ELONGATION FLAGS SNR_WIN VIGNET"
        (folder / "out.param").write_text(names.replace(" ", "\n") + f"({size},{size})")
        (folder / "none.conv").write_text("CONV NORM\n0 0 0\n0 1 0\n0 0 0\n")
        run = lambda *words: subprocess.run(words, cwd=folder, capture_output=True, check=True)  # noqa: E731
        run("source-extractor", "image.fits", "-c", "/usr/share/source-extractor/default.sex", "-CATALOG_TYPE",
            "FITS_LDAC", "-CATALOG_NAME", "stars.cat", "-PARAMETERS_NAME", "out.param", "-FILTER_NAME", "none.conv",
            "-WEIGHT_TYPE", "MAP_WEIGHT", "-WEIGHT_IMAGE", "weight.fits", "-GAIN", str(GAIN), "-BACK_TYPE", "MANUAL",
            "-BACK_VALUE", "0", "-PHOT_APERTURES", str(round(6 * fwhm)), "-DETECT_THRESH", "5", "-SATUR_LEVEL", "1e9",
            "-STARNNW_NAME", "/usr/share/source-extractor/default.nnw", "-DEBLEND_MINCONT", "0.005")  # fmt: skip
        run("psfex", "stars.cat", "-c", "/usr/share/psfex/default.psfex", "-PSF_SIZE",
            f"{size * oversampling},{size * oversampling}",
            "-PSF_SAMPLING", str(1 / oversampling), "-PSFVAR_DEGREES", "0", "-BASIS_TYPE", "PIXEL", "-CHECKPLOT_TYPE",
            "NONE", "-CHECKIMAGE_TYPE", "NONE", "-WRITE_XML", "N", "-PSF_RECENTER", "Y", "-SAMPLE_MINSN", "20",
            "-SAMPLE_MAXELLIP", "0.5", "-SAMPLE_FWHMRANGE", "1.0,10.0")  # fmt: skip
        model = read_psfex(folder / "stars.psf", oversampling=oversampling)
    return lambda dx, dy: model.at(dx=dx, dy=dy), None


def psfr(data, mask, oversampling, fwhm):
    from psfr.psfr import stack_psf as stack_of_psfr

    result = stack_of_psfr(
        [np.where(bad, 0, a) for a, bad in zip(data, mask, strict=True)], oversampling=oversampling,
        mask_list=[(~bad).astype(int) for bad in mask], saturation_limit=None, num_iteration=10, verbose=False,
    )  # fmt: skip
    from galprep_dask.psf import PSFModel

    image = result[0]
    model = PSFModel.from_image(image, oversampling=oversampling)
    return lambda dx, dy: model.at(dx=dx, dy=dy), None


PEERS = {"galprep": ours, "stack": stack, "PSFEx": psfex, "EPSFBuilder": epsf_builder, "Piff": piff, "PSFr": psfr}


def scene(name, count, seed):
    """Stamps, mask, profile, oversampling and bound of a scene."""
    if name == "sharp":
        profile = moffat(1.5, e1=0.05)
        data, mask, truth = stars(profile, count, 31, gain=GAIN, seed=seed, subpixels=9)
        return data, mask, profile, 3, 1.5, None
    profile = moffat(3.6, e1=0.05)
    data, mask, truth = stars(profile, count, 51, gain=GAIN, seed=seed)
    if name == "neighbours":
        rng = np.random.default_rng(seed)
        for k in range(0, count, 3):
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(8, 20)
            at = distance * np.cos(angle), distance * np.sin(angle)
            data[k] += rng.uniform(0.05, 0.5) * truth["flux"][k] * integrated(profile, *at, 51)
    return data, mask, profile, 1, 3.6, 1e4 * cramer_rao(truth, mask) / (truth["psf"] / truth["psf"].sum()).max()


def compare(name, count, seed, peers):
    data, mask, profile, oversampling, fwhm, bound = scene(name, count, seed)
    size = data.shape[-1]
    print(f"\n{name}: {count} stars of {size} x {size}, FWHM {fwhm} px, S/N 30 to 1500, oversampling {oversampling}"
          + (f", Cramer-Rao bound {bound:.2f}" if bound else ""))  # fmt: skip
    print(f"{'':12} {'error':>8} {'cpu s':>8} {'reserved chi2':>14}")
    for peer in peers:
        options = {"neighbours": "fit"} if peer == "galprep" and name == "neighbours" else {}
        try:
            if peer == "galprep":
                PEERS[peer](data, mask, oversampling, fwhm, **options)
            before, children = time.process_time(), _children()
            render, chi2 = PEERS[peer](data, mask, oversampling, fwhm, **options)
            taken = time.process_time() - before + _children() - children
            told = "" if chi2 is None else f"{chi2:.3f}"
            print(f"{peer:12} {error(render, profile, size):8.2f} {taken:8.2f} {told:>14}", flush=True)
        except (ImportError, FileNotFoundError):
            print(f"{peer:12} not installed")
        except Exception as problem:
            print(f"{peer:12} failed: {type(problem).__name__}: {str(problem)[:90]}")


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
        told = "settled" if solution.converged else "not settled"
        print(f"{name:24} {solution.loss_history[-1]:.7f} {taken:8.2f} s of the processor, {told}", flush=True)


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
                found.append(error(partial(model.at, *place), quadratic(u, v), 31))
                lever = 1.0 if model.field is None else np.sum(model.field.basis(*place)[0] ** 2)
                true = integrated(quadratic(u, v), 0, 0, 31)
                bound.append(1e4 * np.sqrt(lever * np.mean(1 / information)) / (true / true.sum()).max())
            rms = np.sqrt(np.mean(np.square([found, bound]), axis=1))
            print(f"  {name}: error {rms[0]:.2f}, largest {max(found):.2f}, bound with free pixels {rms[1]:.2f}")


def real(folder):
    """Fit stars of a real image, taken by size, roundness and isolation alone: reserved stars beside a plain stack."""
    from photutils.segmentation import SourceCatalog, detect_sources

    with fits.open(Path(folder) / "vircam_h" / "image_8.fits") as hdus:
        data, header = hdus[1].data.astype(float), hdus[1].header
    sky = np.nanmedian(data)
    data = data - sky
    noise = 1.4826 * np.nanmedian(np.abs(data))
    found = detect_sources(np.nan_to_num(data), 3 * noise, 8)
    table = SourceCatalog(np.nan_to_num(data), found)
    x, y, peak = table.x_centroid, table.y_centroid, table.max_value
    fwhm, elongation = table.fwhm.value, table.elongation.value
    bright = (peak > 30 * noise) & (elongation < 1.25) & (peak < 0.7 * np.nanmax(data))
    counts, edges = np.histogram(fwhm[bright], bins=np.arange(1.5, 8, 0.3))
    typical = edges[np.argmax(counts)] + 0.15
    half = 15
    inside = (np.minimum(x, y) > half + 1) & (x < data.shape[1] - half - 2) & (y < data.shape[0] - half - 2)
    kept = np.nonzero(bright & inside & (np.abs(fwhm - typical) < 0.6))[0]
    column, row = np.rint(x[kept]).astype(int), np.rint(y[kept]).astype(int)
    cut = [(slice(j - half, j + half + 1), slice(i - half, i + half + 1)) for j, i in zip(row, column, strict=True)]
    stamps = np.array([data[c] for c in cut])
    own = found.labels[kept]
    mask = np.array([(found.data[c] > 0) & (found.data[c] != label) for c, label in zip(cut, own, strict=True)])
    model = fit_psf(stamps, mask=mask, sky_std=noise, gain=float(header.get("GAIN", 4.0)), x=column, y=row)
    print(f"vircam_h, image_8: {len(stamps)} stamps\n{model}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", nargs="*", default=["well sampled", "sharp", "neighbours"])
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--stars", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--adam", type=int, default=0, help="steps of Adam at 2e-5")
    parser.add_argument("--parts", nargs="*", default=["memory", "compare", "bounds", "times", "losses", "field"])
    parser.add_argument("--data", help="folder of real images, for part 'real'")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if "memory" in options.parts:  # first: a process remembers the most that it ever held
        memory(5000, 41)
    if "compare" in options.parts:
        missing = [program for program in ("psfex", "source-extractor") if not shutil.which(program)]
        print("not installed:", *missing) if missing else None
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
        real(options.data)


if __name__ == "__main__":
    main()
