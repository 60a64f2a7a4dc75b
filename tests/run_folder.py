"""A folder as ``galprep run`` leaves it, made with the functions of the package: band r is whole, K has no PSF, and z
has failed; K is without figures, too."""

import json

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
from galprep_dask.sky import source_mask
from galprep_dask.stats import sigma_clipped_stats

__all__ = ["HOSTILE", "make_run_folder", "read_manifest", "write_manifest", "write_record"]

#: Names are data, whatever they hold.
HOSTILE = [
    "<script>alert(1)</script>", "\"quotes\" & 'more'", "Галактика 🌌", "../../etc/passwd", "</script><img src=x>",
    "[/b] {{ 7 * 7 }}",
]  # fmt: skip
NUMBERS = ("mag", "re", "q", "fwhm", "masked")
SIZE = 21


def make_run_folder(folder, count=12):
    """Write the products of ``count`` targets."""
    image, truth = simulate_mosaic((600, 700), seed=3, chunks=700)
    image = image.load()
    masked = source_mask(image["data"], fwhm=truth.fwhm, max_grow_size=40).compute()
    sky = image.galprep.fit_polynomial_sky(2, mask=masked)
    subtracted = image.galprep.subtract_sky(sky)
    std = sigma_clipped_stats(subtracted["data"], masked, sigma=5.0)[2]
    subtracted["sigma"] = subtracted.galprep.sigma_image(sky_std=std)
    subtracted = subtracted.load()
    data = np.nan_to_num(subtracted["data"].values)
    segmentation = detect_sources(smooth(data, truth.fwhm), 2 * std, measure=data)
    catalog = source_catalog(data, segmentation)

    planes = {
        "data": image["data"].values, "sky": np.asarray(sky.evaluate(data.shape)), "subtracted": data,
        "segmentation": np.asarray(segmentation.data) > 0, "sigma": subtracted["sigma"].values,
    }  # fmt: skip
    record = {
        "image": "/data/mosaic.fits", "hdu": 0, "shape": list(data.shape), "chunks": [700, 700],
        "pixel_scale": float(pixel_scale(subtracted.galprep.header, where="the mosaic")), "zeropoint": 25.0,
        "gain": truth.gain, "exptime": truth.exptime, "version": "0.1", "parameters": "0123456789abcdef",
        "settings": {"sky": {"model": "polynomial", "order": 2}, "band": {"name": "r", "mask": None}},
        "inputs": {"image": {"path": "/data/mosaic.fits", "bytes": 1680000, "mtime": 1, "header": "fedcba9876543210"}},
        "status": "done", "reason": "",
        "sky": {"model": "polynomial", "level": float(planes["sky"].mean()), "std": std, "order": 2},
        "segmentation": {"threshold": 2 * std, "n_sources": segmentation.n_labels, "masked_fraction": 0.05},
        "sigma": {"sky_std": std, "sigchk": 1.012, "sigscl": None, "correlation_factor": 1.02},
        "stars": {"n_used": 0, "reason": "no PSF is fitted"}, "psf": {"source": "none"},
    }  # fmt: skip
    for band in ("r", "K"):
        layout.band_folder(folder, band).mkdir(parents=True)
        write_record(folder, band, record | {"name": band})
    means = {name: _means(plane) for name, plane in planes.items()}
    np.savez_compressed(layout.preview_file(folder, "r"), **means, step=np.array(2))
    measured = _write_psf(folder, data, segmentation, catalog, std, record)
    write_record(folder, "r", record | {"name": "r"} | measured)
    layout.band_folder(folder, "z").mkdir()
    write_record(folder, "z", {"name": "z", "status": "failed", "reason": "'/data/z.fits' is <truncated>."})
    bands = [{"name": name, "image": f"/data/{name}.fits"} for name in "rKz"]
    asked = {"version": "0.1", "config": {"targets": "/data/t.ecsv", "bands": bands}, "inputs": {}}
    layout.run_record(folder).write_text(json.dumps(asked))
    _write_products(folder, subtracted, truth, count)
    return folder


def write_record(folder, band, record):
    layout.band_record(folder, band).write_text(json.dumps(record))


def _means(plane):
    ny, nx = plane.shape
    return plane.reshape(ny // 2, 2, nx // 2, 2).mean(axis=(1, 3)).astype(np.float32)


def _write_psf(folder, data, segmentation, catalog, std, record):
    stars = select_stars(data, segmentation, catalog, sky_std=std, crossmatch=False, size=SIZE)
    write_catalog(stars, layout.stars_file(folder, "r"))
    cut = star_stamps(data, stars, SIZE, segmentation=segmentation)
    model = fit_psf(cut.stamps, mask=cut.mask, sky_std=std, oversampling=1)
    model.to_fits(layout.psf_file(folder, "r"))

    flux, sky, dx, dy = (np.asarray(model.stars[name]) for name in ("flux", "sky", "dx", "dy"))
    light = (cut.stamps - sky[:, None, None]) / flux[:, None, None]
    left = light - [model.at(dx=x, dy=y) for x, y in zip(dx, dy, strict=True)]
    ring = np.hypot(*np.mgrid[-10:11, -10:11]).round().astype(int)
    data, expected = ([plane[ring == radius].mean() for radius in range(11)] for plane in (light.mean(0), model.image))
    residuals = {"residual": left.mean(0), "stamps": light, "stamps_residual": left}
    profile = {"radius": np.arange(11.0), "profile_data": data, "profile_model": expected}
    np.savez_compressed(layout.psf_residuals_file(folder, "r"), **residuals, **profile)

    counts = stars.meta["counts"]
    before = [len(stars), *counts.values()][: len(counts)]
    cuts = [
        {"name": name, "dropped": n - left, "left": left}
        for (name, left), n in zip(counts.items(), before, strict=True)
    ]  # fmt: skip
    told = {name: value for name, value in model.validation.items() if np.isfinite(value)}
    pixels, scale = stars.meta["fwhm"], record["pixel_scale"]
    return {
        "stars": {"n_used": int(stars["used"].sum()), "fwhm": pixels * scale, "fwhm_pixels": pixels, "cuts": cuts},
        "psf": {
            "source": "fitted", "fwhm": model.fwhm * scale, "fwhm_pixels": model.fwhm, "degree": 0, "oversampling": 1,
            "converged": bool(model.converged), "warnings": [], "n_stars": int(stars["used"].sum()),
            "n_reserved": told["n_reserved"], "chi2_reserved": told["reduced_chi2"], "validation": told,
        },
    }  # fmt: skip


def _write_products(folder, subtracted, truth, count):
    galaxies = truth.sources[truth.sources["kind"] == "galaxy"]
    galaxies = galaxies[np.argsort(-galaxies["flux"])][:count]
    names = [*HOSTILE, *(f"J{number}" for number in range(count))][:count]
    positions = list(zip(galaxies["ra"].tolist(), galaxies["dec"].tolist(), strict=True))
    cuts, _ = cutout_many(subtracted, galaxies["ra"], galaxies["dec"], 81)
    rows = []
    for k, (name, file, (ra, dec)) in enumerate(zip(names, file_names(names, positions), positions, strict=True)):
        layout.target_folder(folder, file).mkdir(parents=True)
        target = {"target": name, "file_name": file, "ra": ra, "dec": dec, "redshift": 0.1 + k / 50}
        image, bad = np.nan_to_num(cuts[k]["data"].values), cuts[k].galprep.bad_pixels.values
        mask = target_mask(image, 40, 40, fwhm=truth.fwhm, mask=bad, max_grow_size=10)
        for b, band in enumerate("rKz"):
            path = layout.cutout_file(folder, file, band)
            row = target | {"kind": "cutout", "band": band, "path": path.relative_to(folder).as_posix()}
            if band == "z" or (k, band) == (4, "K"):
                reason = "band z: '/data/z.fits' is <truncated>." if band == "z" else "every pixel is masked"
                rows.append(row | {"status": "failed", "reason": reason})
                continue
            write_product(path, cuts[k], mask=mask, ra=ra, dec=dec)
            flags = "edge, far_from_stars" if k == 7 else "edge" if k % 5 == 0 else ""
            numbers = {"mag": 22.5 - k / 4 - b, "re": 3 + k / 3 + b, "q": 0.9 - k / 20, "fwhm": 0.9 + b}
            numbers["masked"] = mask.mean()
            rows.append(row | {"status": "done", "flags": flags, "parameters": "0" * 16} | numbers)
        rows.append(target | {"kind": "lyric", "path": f"targets/{file}/{file}.lyric", "status": "done"})
    write_manifest(folder, rows)


def write_manifest(folder, rows):
    """Write rows, each a dictionary, with nothing for what is not there."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    absent = {key: np.nan if key in NUMBERS else "" for key in columns}
    table = Table([[row.get(key, absent[key]) for row in rows] for key in columns], names=columns)
    if "re" in columns:
        table["re"].info.description = "half-light radius in arcsec"
    table.write(layout.manifest_file(folder), format="ascii.ecsv", overwrite=True)


def read_manifest(folder):
    """Give the rows back, to be changed and written again."""
    table = Table.read(layout.manifest_file(folder), format="ascii.ecsv")
    return [{key: row[key] for key in table.colnames if row[key] is not np.ma.masked} for row in table]
