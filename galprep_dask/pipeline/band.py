"""One band: from its image to sky, noise, sources, stars and PSF, each made once and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dask.array as da
import xarray as xr
from astropy.io import fits
from astropy.table import QTable

from galprep_dask._version import __version__
from galprep_dask.cutouts.provenance import record_provenance
from galprep_dask.errors import GalprepError, NoGoodPixelsError, OutputError, TooFewPixelsError
from galprep_dask.image import describe, image_header, pixel_scale
from galprep_dask.noise import correlation_factor, measure_sky_std, with_sigma
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.config import Band, Config, parameters_hash
from galprep_dask.pipeline.pixels import (
    Subtracted,
    effective_gain,
    fwhm_in_pixels,
    keep_plane,
    kept_plane,
    sigma_of,
    staged_image,
    subtracted,
)
from galprep_dask.pipeline.previews import block_means
from galprep_dask.pipeline.records import make_folder, read_json, write_arrays, write_json
from galprep_dask.pipeline.sky_models import fit_sky, read_sky, write_sky
from galprep_dask.pipeline.stars import NO_PSF, choose_stars, describe_psf, fit_to_stars, read_psf, star_counts
from galprep_dask.pipeline.steps import STEPS, step_hashes
from galprep_dask.segmentation import Segmentation, deblend_sources, smooth, source_catalog, write_catalog
from galprep_dask.segmentation.detect import find_sources

__all__ = ["missing_steps", "prepare_band"]

_log = logging.getLogger("galprep_dask.pipeline")

#: Planes that a step leaves for those after it, and which steps want them.
_KEPT = {"masked": ("sky", ("sigma",)), "labels": ("sources", ("preview", "stars", "psf"))}


def missing_steps(output: Path, band: Band, hashes: dict[str, str]) -> list[str]:
    """
    Give the steps of a band that are to be done, in order.

    Parameters
    ----------
    output : Path
        Folder of the run.
    band : Band
        One of its bands.
    hashes : dict
        From :func:`galprep_dask.pipeline.steps.step_hashes`.

    Returns
    -------
    list of str
        Those not done with these parameters, or whose files are gone; and those whose images they need, where these
        are no longer kept.
    """
    record = read_json(layout.band_record(output, band.name)) or {}
    done = record.get("steps", {})
    files = {
        "sky": [layout.sky_file], "sources": [layout.sources_file], "preview": [layout.preview_file],
        "stars": [layout.stars_file] if record.get("stars", {}).get("n_used") else [],
        "psf": [layout.psf_file] if record.get("psf", {}).get("source") in ("fitted", "file") else [],
    }  # fmt: skip
    todo = {
        step
        for step in STEPS
        if done.get(step) != hashes[step]
        or not all(file(output, band.name).is_file() for file in files.get(step, ()))
    }
    folder = layout.work_folder(output) / band.name
    for plane, (maker, users) in reversed(_KEPT.items()):
        wanted = [step for step in users if step in todo and (band.psf is None or step not in ("stars", "psf"))]
        if wanted and kept_plane(plane, folder, hashes[maker]) is None:
            todo.add(maker)
    return [step for step in STEPS if step in todo]


def prepare_band(
    config: Config, band: Band, inputs: dict, output: Path, step: Callable[[str], AbstractContextManager]
) -> dict:
    """
    Do what is missing of a band.

    Parameters
    ----------
    config : Config
        The run.
    band : Band
        One of its bands.
    inputs : dict
        From :func:`galprep_dask.pipeline.steps.band_inputs`.
    output : Path
        Folder of the run.
    step : callable
        ``with step(name): ...`` around each step, to show progress.

    Returns
    -------
    dict
        The record of the band, which is in its folder, too. ``status`` is "failed" where something about the band
        itself was wrong, and ``reason`` says what.

    Raises
    ------
    OutputError
        The output folder cannot be written to.
    """
    hashes = step_hashes(config, band, inputs)
    path = layout.band_record(output, band.name)
    todo = missing_steps(output, band, hashes)
    before = read_json(path) or {}
    if not todo and before.get("status") == "done":
        return before
    make_folder(path.parent)
    record = _heading(config, band, inputs)
    record |= {key: before[key] for key in _MEASURED if key in before}
    record["steps"] = {name: done for name, done in before.get("steps", {}).items() if name not in todo}
    try:
        work = _Work(config, band, output, hashes, record)
        record |= work.about
        for name in todo:
            with step(f"{band.name}: {name}"):
                _STEPS[name](work)
            record["steps"][name] = hashes[name]
            write_json(path, _ordered(record))
        record["status"] = "done"
    except OutputError:
        raise
    except Exception as error:
        if not isinstance(error, GalprepError | OSError | MemoryError):
            _log.exception("band %s", band.name)
        record["status"], record["reason"] = "failed", _reason(error)
    record = _ordered(record)
    write_json(path, record)
    return read_json(path) or record


#: Keys of a record in the order in which they are written; steps measure those behind ``reason``.
_KEYS = (
    "name", "image", "hdu", "shape", "chunks", "pixel_scale", "zeropoint", "gain", "exptime", "version", "parameters",
    "settings", "inputs", "steps", "status", "reason", "sky", "segmentation", "sigma", "stars", "psf",
)  # fmt: skip
_MEASURED = _KEYS[_KEYS.index("reason") + 1 :]


def _ordered(record: dict) -> dict:
    steps = {name: record["steps"][name] for name in STEPS if name in record["steps"]}
    return {key: steps if key == "steps" else record[key] for key in _KEYS if key in record}


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GalprepError) and text else f"{type(error).__name__}: {text}"


def _heading(config: Config, band: Band, inputs: dict) -> dict:
    settings = config.model_dump(mode="json", include={"sky", "detection", "sigma", "psf"})
    settings["band"] = band.model_dump(mode="json")
    return {
        "name": band.name, "image": band.image, "hdu": band.hdu, "version": __version__,
        "parameters": parameters_hash(__version__, settings, inputs), "settings": settings, "inputs": inputs,
        "status": "unfinished", "reason": "",
    }  # fmt: skip


@dataclass
class _Work:
    """What the steps of a band share: the image, opened when it is first wanted, and the record that they fill."""

    config: Config
    band: Band
    output: Path
    hashes: dict[str, str]
    record: dict

    @property
    def folder(self) -> Path:
        return layout.work_folder(self.output) / self.band.name

    @cached_property
    def image(self) -> xr.Dataset:
        return staged_image(self.band, self.folder, self.hashes["pixels"])

    @cached_property
    def scale(self) -> float:
        return pixel_scale(image_header(self.image), where=describe(self.image))

    @property
    def about(self) -> dict:
        attrs = self.image.attrs
        return {
            "hdu": attrs.get("hdu"), "shape": list(self.image["data"].shape),
            "chunks": [max(sizes) for sizes in self.image["data"].data.chunks], "pixel_scale": self.scale,
            **{name: attrs.get(name) for name in ("zeropoint", "gain", "exptime")},
        }  # fmt: skip

    @cached_property
    def pixels(self) -> Subtracted:
        return subtracted(self.image, read_sky(layout.sky_file(self.output, self.band.name)))

    @cached_property
    def sigma(self) -> da.Array:
        return sigma_of(self.image, self.pixels, self.record["sigma"])

    def kept(self, plane: str) -> da.Array:
        chunks = dict(zip("yx", self.image["data"].data.chunks, strict=True))
        return kept_plane(plane, self.folder, self.hashes[_KEPT[plane][0]], chunks)


# The steps --------------------------------------------------------------------------------------------------


def _sky(work: _Work) -> None:
    settings = work.config.sky
    sky, masked = fit_sky(work.image, settings, fwhm=fwhm_in_pixels(work.band, work.image))
    keep_plane("masked", masked, work.folder, work.hashes["sky"])
    write_sky(sky, layout.sky_file(work.output, work.band.name))
    work.__dict__.pop("pixels", None)
    chunks = work.image["data"].data.chunks
    level = 0.0 if sky is None else float(sky.evaluate(work.image["data"].shape, chunks).mean().compute())
    masked = work.kept("masked")
    told = {
        "model": settings.model, "kind": "none" if sky is None else type(sky).__name__, "level": level,
        "std": measure_sky_std(work.pixels.data, masked), "masked_fraction": float(masked.mean().compute()),
    }  # fmt: skip
    if settings.model == "polynomial":
        told["order"] = settings.order
    elif settings.model in ("mesh", "piecewise"):
        told["box_size"] = settings.box_size
    work.record["sky"] = told


def _sigma(work: _Work) -> None:
    masked = work.kept("masked")
    image = work.image.assign(data=(("y", "x"), work.pixels.data))
    maps = {"rms": image["rms"]} if "rms" in image else {}
    std = work.record["sky"]["std"]
    checked = with_sigma(image, masked, sky_std=std, rescale=work.config.sigma.rescale, **maps)
    header = image_header(checked)
    told = {"sky_std": std, "scale": header.get("SIGSCL"), "sigchk": header["SIGCHK"], "sigscl": header.get("SIGSCL")}
    told["cards"] = [
        [key, header[key], header.comments[key]]
        for key in ("SIGCHK", "SIGCHKLO", "SIGCHKHI", "SIGCHKN", "SIGSCL")
        if key in header
    ]
    try:
        size = min(16, *image["data"].shape)
        told["correlation_factor"] = correlation_factor(work.pixels.data, masked, block_size=size)
    except (TooFewPixelsError, NoGoodPixelsError):
        told["correlation_factor"] = None
    work.record["sigma"] = told
    work.__dict__.pop("sigma", None)


def _sources(work: _Work) -> None:
    how = work.config.detection
    data, bad = work.pixels
    threshold = how.n_sigma * work.record["sky"]["std"]
    smoothed = smooth(data, fwhm_in_pixels(work.band, work.image), bad)
    measure = None if how.deblend else data
    found = find_sources(smoothed, threshold, how.n_pixels, how.connectivity, bad, measure)
    if how.deblend and found.n_labels:
        found = deblend_sources(smoothed, found, how.n_pixels, connectivity=how.connectivity, mask=bad)
    keep_plane("labels", found.data, work.folder, work.hashes["sources"])
    if how.deblend:  # the labels that were kept are quicker to read than to make
        found = Segmentation(work.kept("labels"))
    catalog = source_catalog(data, found, mask=bad, wcs=image_header(work.image))
    write_catalog(catalog, layout.sources_file(work.output, work.band.name), overwrite=True)
    covered = float(catalog["area"].value.sum()) / data.size if len(catalog) else 0.0
    work.record["segmentation"] = {
        "threshold": threshold, "n_sources": len(catalog), "masked_fraction": covered,
    }  # fmt: skip


def _preview(work: _Work) -> None:
    data = work.image["data"].data
    means = block_means({
        "data": da.where(work.pixels.bad, float("nan"), data), "sky": data - work.pixels.data,
        "subtracted": da.where(work.pixels.bad, float("nan"), work.pixels.data),
        "segmentation": work.kept("labels") > 0, "sigma": work.sigma,
    })  # fmt: skip
    write_arrays(layout.preview_file(work.output, work.band.name), means)


def _stars(work: _Work) -> None:
    settings, path = work.config.psf, layout.stars_file(work.output, work.band.name)
    path.unlink(missing_ok=True)
    if work.band.psf is not None or not settings.fit:
        work.record["stars"] = {"n_used": 0, "reason": "no PSF is fitted"}
        return
    catalog = QTable.read(layout.sources_file(work.output, work.band.name))
    fwhm = None if work.band.fwhm is None else fwhm_in_pixels(work.band, work.image)
    try:
        stars = choose_stars(
            work.pixels, work.kept("labels"), catalog, sigma=work.sigma, header=image_header(work.image), fwhm=fwhm,
            settings=settings,
        )  # fmt: skip
    except NO_PSF as error:
        work.record["stars"] = {"n_used": 0, "reason": _reason(error)}
        return
    write_catalog(stars, path, overwrite=True)
    fwhm = stars.meta["fwhm"]
    work.record["stars"] = {
        "n_used": int(stars["used"].sum()), "fwhm": fwhm * work.scale, "fwhm_pixels": fwhm, "cuts": star_counts(stars),
        "reason": "",
    }  # fmt: skip


def _psf(work: _Work) -> None:
    settings, band = work.config.psf, work.band
    path, left = (file(work.output, band.name) for file in (layout.psf_file, layout.psf_residuals_file))
    for file in (path, left):
        file.unlink(missing_ok=True)
    header = record_provenance(
        fits.Header(), (work.image.attrs.get("path"), work.image.attrs.get("hdu")),
        {"psf": settings.model_dump(mode="json", exclude={"gaia_catalog"})},  # a path, which is no part of what it was
    )  # fmt: skip
    if band.psf is not None:
        model = read_psf(band.psf)
        model.to_fits(path, header=header)
        work.record["psf"] = describe_psf(model, "file", work.scale, [])
        return
    if not work.record["stars"]["n_used"]:
        work.record["psf"] = {"source": "none", "reason": work.record["stars"]["reason"]}
        return
    stars = QTable.read(layout.stars_file(work.output, band.name))
    try:
        model, residuals, warned = fit_to_stars(
            work.pixels, work.kept("labels"), stars, sigma=work.sigma, gain=effective_gain(work.image),
            settings=settings,
        )  # fmt: skip
    except (*NO_PSF, NoGoodPixelsError) as error:
        work.record["psf"] = {"source": "none", "reason": _reason(error)}
        return
    write_arrays(left, residuals)
    model.to_fits(path, header=header)
    work.record["psf"] = describe_psf(model, "fitted", work.scale, warned)


_STEPS = {"sky": _sky, "sigma": _sigma, "sources": _sources, "preview": _preview, "stars": _stars, "psf": _psf}
