"""The cutouts of a band: what is wanted, what is there, and the rest in one pass over the image."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u

from galprep_dask.cutouts import cutout_many, write_product
from galprep_dask.cutouts.targets import place_targets
from galprep_dask.errors import GalprepError, NoTargetsWarning
from galprep_dask.image import WARNINGS_LOCK, image_header, pixel_scale, with_header
from galprep_dask.masks import target_mask
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.config import Band, Config, parameters_hash
from galprep_dask.pipeline.files import product_cards
from galprep_dask.pipeline.pixels import fwhm_in_pixels, sigma_of, subtracted
from galprep_dask.pipeline.records import make_folder
from galprep_dask.pipeline.sky_models import read_sky
from galprep_dask.pipeline.steps import product_hash
from galprep_dask.pipeline.targets import Target
from galprep_dask.psf import PSFModel
from galprep_dask.sky import record_sky

__all__ = ["Cut", "cut_missing", "plan_cutouts"]

_log = logging.getLogger("galprep_dask.pipeline")


@dataclass(frozen=True)
class Cut:
    """
    A cutout that is wanted.

    Parameters
    ----------
    target : Target
        Of what.
    path : Path
        Its file.
    digest : str
        What it has to be made with, which its header has as GPRUN.
    x, y : float
        Position of the target in the image.
    x0, y0, nx, ny : int
        Pixels of the cutout in the image.
    padded : int
        How many of them lie beyond the edge.
    reason : str
        Why it cannot be made, or empty.
    masked : int or None
        Masked pixels, where its file is there and valid.
    """

    target: Target
    path: Path
    digest: str
    x: float = np.nan
    y: float = np.nan
    x0: int = 0
    y0: int = 0
    nx: int = 0
    ny: int = 0
    padded: int = 0
    reason: str = ""
    masked: int | None = None


def plan_cutouts(
    config: Config, band: Band, hashes: dict[str, str], targets: list[Target], output: Path, image: xr.Dataset
) -> list[Cut]:
    """
    Say what is wanted of a band for every target, and what is there and valid.

    Parameters
    ----------
    config : Config
        The run.
    band : Band
        One of its bands.
    hashes : dict
        From :func:`galprep_dask.pipeline.steps.step_hashes`.
    targets : list of Target
        All of them.
    output : Path
        Folder of the run.
    image : Dataset
        The image of the band, from :func:`galprep_dask.pipeline.pixels.open_band`.

    Returns
    -------
    list of Cut
        One for every target.
    """
    made_with = product_hash(config, band, hashes)
    size = np.array([target.size or config.cutout.size for target in targets])
    ra, dec = (np.array([getattr(target, name) for target in targets]) for name in ("ra", "dec"))
    with WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", NoTargetsWarning)  # the rows say so
        places = place_targets(image, image_header(image), ra, dec, size * u.arcsec)
    cuts = []
    for target, side, place in zip(targets, size.tolist(), places, strict=True):
        path = layout.cutout_file(output, target.file_name, band.name)
        digest = parameters_hash(made_with, target.name, target.ra, target.dec, side)
        cut = Cut(target, path, digest, reason=target.problem or str(place["reason"]))
        if not cut.reason:
            numbers = {name: float(place[name]) for name in ("x", "y")}
            numbers |= {name: int(place[name]) for name in ("x0", "y0", "nx", "ny")}
            cards = product_cards(path)
            valid = cards is not None and cards.get("GPRUN") == digest
            cut = replace(
                cut, **numbers, padded=int(place["n_padded"]), masked=int(cards["GPNBAD"]) if valid else None
            )
        cuts.append(cut)
    return cuts


def cut_missing(
    config: Config, band: Band, record: dict, cuts: list[Cut], output: Path, image: xr.Dataset
) -> list[Cut]:
    """
    Cut what is missing out of the image of a band, in one pass over it.

    Parameters
    ----------
    config : Config
        The run.
    band : Band
        One of its bands.
    record : dict
        The record of the band.
    cuts : list of Cut
        From :func:`plan_cutouts`.
    output : Path
        Folder of the run.
    image : Dataset
        The image of the band, from :func:`galprep_dask.pipeline.pixels.open_band`.

    Returns
    -------
    list of Cut
        With ``masked``, or a ``reason``, for each.
    """
    wanted = [k for k, cut in enumerate(cuts) if not cut.reason and cut.masked is None]
    if not wanted:
        return cuts
    for k in wanted:
        make_folder(cuts[k].path.parent)
    jobs = [cuts[k] for k in wanted]
    sink = _Sink(
        jobs, _psf_of(output, band, record), fwhm_in_pixels(band, image),
        config.mask.source_diameter / pixel_scale(image_header(image)), config, _parameters(config, band, record),
    )  # fmt: skip
    sizes = np.array([(cut.ny, cut.nx) for cut in jobs])
    results, table = cutout_many(
        _prepared(band, record, output, image), [cut.target.ra for cut in jobs], [cut.target.dec for cut in jobs],
        sizes, sink=sink,
    )  # fmt: skip
    cuts = list(cuts)
    for k, result, reason in zip(wanted, results, table["reason"], strict=True):
        if isinstance(result, int):
            cuts[k] = replace(cuts[k], masked=result)
        else:
            cuts[k] = replace(cuts[k], reason=str(result or reason))
            cuts[k].path.unlink(missing_ok=True)  # what is left of other parameters
    return cuts


def _parameters(config: Config, band: Band, record: dict) -> dict:
    """Give what the header of a product says about the steps before it."""
    told = {name: getattr(config, name).model_dump(mode="json") for name in ("sky", "detection", "sigma", "mask")}
    told["psf"] = {"source": record["psf"]["source"]}
    if record["psf"]["source"] == "fitted":
        told["psf"] |= config.psf.model_dump(mode="json", include={"size", "degree", "oversampling", "crossmatch"})
    return {"band": band.name, **told}


def _prepared(band: Band, record: dict, output: Path, image: xr.Dataset) -> xr.Dataset:
    """Give the image minus its sky, with mask, sigma, and what was measured in its header."""
    sky = read_sky(layout.sky_file(output, band.name))
    pixels = subtracted(image, sky)
    sigma = sigma_of(image, pixels, record["sigma"])
    header = image_header(image)
    if sky is not None:
        header = record_sky(header, sky)
    for keyword, value, comment in record["sigma"]["cards"]:
        header[keyword] = (value, comment)
    dims = ("y", "x")
    prepared = xr.Dataset(
        {"data": (dims, pixels.data), "mask": (dims, pixels.bad), "sigma": (dims, sigma)}, attrs=image.attrs
    )
    return with_header(prepared, header)


def _psf_of(output: Path, band: Band, record: dict) -> PSFModel | None:
    if record["psf"]["source"] == "none":
        return None
    return PSFModel.from_fits(layout.psf_file(output, band.name))


@dataclass(frozen=True)
class _Sink:
    """Write the product of a cutout as soon as it is whole; give its number of masked pixels, or what went wrong."""

    jobs: list[Cut]
    psf: PSFModel | None
    fwhm: float
    diameter: float
    config: Config
    parameters: dict

    def __call__(self, k: int, cut: xr.Dataset) -> int | str:
        job = self.jobs[k]
        try:
            return self._write(job, cut)
        except Exception as error:
            if not isinstance(error, GalprepError | OSError | MemoryError):
                _log.exception("target %r", job.target.name)
            return f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _write(self, job: Cut, cut: xr.Dataset) -> int:
        how = self.config.detection
        mask = target_mask(
            cut["data"].values, job.x - job.x0, job.y - job.y0, fwhm=self.fwhm, mask=cut["mask"].values,
            n_sigma=how.n_sigma, n_pixels=how.n_pixels, connectivity=how.connectivity, deblend=how.deblend,
            source_diameter=self.diameter, sky_level=0.0, max_grow_size=self.config.mask.max_grow_size,
        )  # fmt: skip
        psf, model = None, self.psf
        if model is not None:
            at = (job.x, job.y) if model.field is None else model.field.clamped(job.x, job.y)
            psf = model.at(*at)
        target = job.target
        keywords = [
            ("OBJECT", _in_a_header(target.name), ""),  # a long name leaves no room for a comment
            ("GPRUN", job.digest, "what this was made with, as the manifest has it"),
        ]
        write_product(
            job.path, cut, mask=mask, psf=psf, ra=target.ra, dec=target.dec, keywords=keywords,
            parameters={**self.parameters, "target": target.name, "size": [job.ny, job.nx]}, overwrite=True,
        )  # fmt: skip
        return int(product_cards(job.path)["GPNBAD"])  # as a run that finds the file there reads it


def _in_a_header(name: str) -> str:
    """Give a name as a FITS header can hold it: printable ASCII, on one card."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in name)[:60]
