"""The folder of a run as ``galprep run`` leaves it, made with the functions of the package; one band has failed, and
one has no PSF."""

import json
from functools import partial

import numpy as np
from astropy.table import Table

from galprep_dask.cutouts import cutout_many, write_product
from galprep_dask.demo.mosaic import simulate_mosaic
from galprep_dask.image import pixel_scale
from galprep_dask.masks import target_mask
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.names import file_names
from galprep_dask.psf import fit_psf, select_stars, star_stamps
from galprep_dask.segmentation import detect_sources, smooth, source_catalog, write_catalog
from galprep_dask.sky import fit_polynomial_sky, fit_sky_between_sources
from galprep_dask.stats import sigma_clipped_stats

#: Names are data, whatever they hold.
HOSTILE = ["<script>alert(1)</script>", "\"quotes\" & 'more'", "Галактика 🌌", "../../etc/passwd", "</script><b>", "a b"]


def _means(image, step):
    ny, nx = (n // step * step for n in image.shape)
    return image[:ny, :nx].reshape(ny // step, step, nx // step, step).mean(axis=(1, 3)).astype(np.float32)


def make_run_folder(folder, *, count=12, psf=True):
    """Write a folder of ``count`` targets in bands r (with a PSF), K (without one) and z (failed)."""
    image, truth = simulate_mosaic((700, 800), seed=3, chunks=400)
    image = image.load()
    sky, masked = fit_sky_between_sources(
        image["data"], fit=partial(fit_polynomial_sky, order=2), fwhm=truth.fwhm, max_grow_size=40
    )
    subtracted = image.galprep.subtract_sky(sky)
    _, _, std = sigma_clipped_stats(subtracted["data"], masked, sigma=5.0)
    subtracted["sigma"] = subtracted.galprep.sigma_image(sky_std=std)
    subtracted = subtracted.load()
    data = np.nan_to_num(subtracted["data"].values)
    smoothed = smooth(data, truth.fwhm)
    segmentation = detect_sources(smoothed, 2 * std, measure=data)
    names = [*HOSTILE, *(f"J{number:04d}" for number in range(count))][:count]
    rng = np.random.default_rng(0)
    galaxies = truth.sources[truth.sources["kind"] == "galaxy"]
    galaxies = galaxies[np.argsort(-galaxies["flux"])][:count]
    positions = list(zip(galaxies["ra"].tolist(), galaxies["dec"].tolist(), strict=True))
    files = file_names(names, positions)

    scale = float(pixel_scale(subtracted.galprep.header, where="the mosaic"))
    record = {
        "image": "/data/mosaic.fits", "hdu": 0, "shape": list(data.shape), "chunks": [400, 400], "pixel_scale": scale,
        "zeropoint": 25.0, "gain": truth.gain, "exptime": truth.exptime, "version": "0.1", "parameters": "0123456789abcdef",
        "settings": {"sky": {"model": "polynomial", "order": 2}, "band": {"name": "r"}},
        "inputs": {"image": {"path": "/data/mosaic.fits", "bytes": 4_480_000, "mtime": 1, "header": "fedcba9876543210"}},
        "status": "done", "reason": "",
        "sky": {"model": "polynomial", "kind": "PolynomialSky", "level": 5.0, "std": std, "order": 2},
        "segmentation": {"threshold": 2 * std, "n_sources": int(segmentation.n_labels), "masked_fraction": 0.11},
        "sigma": {"sky_std": std, "sigchk": 1.012, "sigscl": None, "correlation_factor": 1.02},
    }  # fmt: skip
    catalog = source_catalog(data, segmentation)
    preview = {
        "data": _means(image["data"].values, 2), "sky": _means(np.asarray(sky.evaluate(data.shape)), 2),
        "subtracted": _means(data, 2), "segmentation": _means(np.asarray(segmentation.data) > 0, 2),
        "sigma": _means(subtracted["sigma"].values, 2), "step": np.array(2),
    }  # fmt: skip
    for band in ("r", "K"):
        layout.band_folder(folder, band).mkdir(parents=True)
        np.savez_compressed(layout.preview_file(folder, band), **preview)
        write_catalog(catalog, layout.sources_file(folder, band))
        told = record | {"name": band, "stars": {"n_used": 0, "reason": "no PSF is fitted"}, "psf": {"source": "none"}}
        if band == "r" and psf:
            told |= _write_psf(folder, band, data, segmentation, catalog, std, truth, scale)
        layout.band_record(folder, band).write_text(json.dumps(told))
    layout.band_folder(folder, "z").mkdir()
    failed = {"name": "z", "image": "/data/z.fits", "status": "failed", "reason": "'/data/z.fits' is <truncated>."}
    layout.band_record(folder, "z").write_text(json.dumps(failed))
    bands = [{"name": name, "image": f"/data/{name}.fits"} for name in "rKz"]
    layout.run_record(folder).write_text(json.dumps({"targets": "/data/t.ecsv", "output": "/out", "bands": bands}))

    cuts, table = cutout_many(subtracted, galaxies["ra"], galaxies["dec"], 81)
    rows = []
    for k, (name, file, cut) in enumerate(zip(names, files, cuts, strict=True)):
        layout.target_folder(folder, file).mkdir(parents=True)
        identity = {"target": name, "file_name": file, "ra": positions[k][0], "dec": positions[k][1], "redshift": 0.1 + k / 50}
        for b, band in enumerate("rKz"):
            path = layout.cutout_file(folder, file, band)
            row = identity | {"kind": "cutout", "band": band, "path": str(path.relative_to(folder)), "parameters": "0" * 16}
            if band == "z":
                rows.append(row | {"status": "failed", "reason": "'/data/z.fits' is <truncated>.", "flags": ""})
                continue
            if k == 4 and band == "K":
                rows.append(row | {"status": "failed", "reason": "every pixel is masked", "flags": ""})
                continue
            x, y = 40.0, 40.0
            mask = target_mask(np.nan_to_num(cut["data"].values), x, y, fwhm=truth.fwhm, mask=cut.galprep.bad_pixels.values, max_grow_size=10)
            write_product(path, cut, mask=mask, ra=positions[k][0], dec=positions[k][1])
            flags = "edge" if k % 5 == 0 else "edge, far_from_stars" if k % 7 == 0 else ""
            measured = {"mag": 22.5 - k / 4 - b, "re": 3.0 + k / 3 + b, "q": 0.4 + 0.5 * rng.random(), "fwhm": 3.1 + b}
            rows.append(row | {"status": "done", "reason": "", "flags": flags} | measured)
        rows.append(identity | {"kind": "lyric", "band": "", "path": f"targets/{file}/{file}.lyric", "status": "done"})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    manifest = Table(rows=[[row.get(key, np.nan if key in ("mag", "re", "q", "fwhm") else "") for key in columns] for row in rows], names=columns)  # fmt: skip
    manifest["re"].unit = "pix"
    manifest.write(layout.manifest_file(folder), format="ascii.ecsv")
    return folder


def _write_psf(folder, band, data, segmentation, catalog, std, truth, scale):
    stars = select_stars(data, segmentation, catalog, sky_std=std, crossmatch=False, fwhm=truth.fwhm, size=21)
    write_catalog(stars, layout.stars_file(folder, band))
    cut = star_stamps(data, stars, 21, segmentation=segmentation)
    model = fit_psf(cut.stamps, mask=cut.mask, sky_std=std, oversampling=1)
    model.to_fits(layout.psf_file(folder, band))
    flux, sky = (np.asarray(model.stars[name])[:, None, None] for name in ("flux", "sky"))
    light = (cut.stamps - sky) / flux
    shifts = zip(model.stars["dx"], model.stars["dy"], strict=True)
    left = light - np.array([model.at(dx=float(dx), dy=float(dy)) for dx, dy in shifts])
    y, x = np.mgrid[-10:11, -10:11]
    ring = np.hypot(x, y).round().astype(int)
    profile = lambda image: np.array([image[ring == r].mean() for r in range(11)])  # noqa: E731
    np.savez_compressed(
        layout.psf_residuals_file(folder, band), residual=left.mean(0), radius=np.arange(11), profile_data=profile(light.mean(0)),
        profile_model=profile(model.image), stamps=light, stamps_residual=left,
    )  # fmt: skip
    counts, before = [], len(stars)
    for name, kept in stars.meta["counts"].items():
        counts.append({"name": name, "dropped": before - kept, "left": kept})
        before = kept
    told = model.validation
    return {
        "stars": {"n_used": int(stars["used"].sum()), "fwhm": stars.meta["fwhm"] * scale, "fwhm_pixels": stars.meta["fwhm"], "cuts": counts},
        "psf": {
            "source": "fitted", "fwhm": model.fwhm * scale, "fwhm_pixels": model.fwhm, "degree": 0, "oversampling": 1,
            "converged": bool(model.converged), "warnings": [], "n_stars": len(stars[stars["used"]]),
            "n_reserved": told["n_reserved"], "chi2_reserved": told["reduced_chi2"],
            "validation": {name: value for name, value in told.items() if np.isfinite(value)},
        },
    }  # fmt: skip
