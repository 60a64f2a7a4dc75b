"""What fits are started from: a GalfitS configuration of every target, a GALFIT input file of every cutout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from galprep_dask._version import __version__
from galprep_dask.errors import GalprepError, MissingZeropointError, OutputError
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.config import Band, Config, parameters_hash
from galprep_dask.pipeline.cutouts import Cut
from galprep_dask.pipeline.galfit import GalfitStart, feedme_text
from galprep_dask.pipeline.galfits import LyricBand, SersicStart, lyric_text
from galprep_dask.pipeline.manifest import Product
from galprep_dask.pipeline.records import write_text
from galprep_dask.pipeline.starts import Found, guess
from galprep_dask.pipeline.targets import Target

__all__ = ["write_texts"]

#: A band with its record, the cutout of a target, and the target in its catalogue.
Member = tuple[Band, dict, Cut, Found | None]


def write_texts(config: Config, output: Path, target: Target, members: list[Member]) -> Iterator[Product]:
    """
    Write the files of a target that have not their content already.

    Parameters
    ----------
    config : Config
        The run.
    output : Path
        Folder of the run.
    target : Target
        Of what.
    members : list of (band, record, cut, found)
        The bands, in the order of the configuration, those without a cutout too.

    Yields
    ------
    Product
        One for each file that is wanted.
    """
    made = [member for member in members if not member[2].reason]
    like = next((found for _, _, _, found in made if found is not None), None)
    if config.galfits.feedme:
        for band, record, cut, found in members:
            path = layout.feedme_file(output, target.file_name, band.name)
            product = Product(target, "feedme", band.name, path, cut.digest)
            if cut.reason:
                yield product.but(status="skipped", reason="there is no cutout")
                continue
            found = found or guess(record, like)
            flags = [] if found.in_catalog else ["no_source"]
            yield _written(product.but(flags=flags), partial(_feedme, band, record, cut, found))
    if config.galfits.lyric:
        path = layout.lyric_file(output, target.file_name)
        digest = parameters_hash([cut.digest for _, _, cut, _ in made], target.redshift, target.ebv)
        product = Product(target, "lyric", "", path, digest)
        if not made:
            yield product.but(status="skipped", reason=target.problem or "there is no cutout")
            return
        flags = [] if like is not None else ["no_source"]
        flags += [] if target.redshift is not None else ["no_redshift"]
        flags += [] if len(made) == len(members) else ["bands_missing"]
        yield _written(product.but(flags=flags), partial(_lyric, target, made, like))


def _written(product: Product, text: Callable[[], str]) -> Product:
    try:
        head = f"# Made by galprep-dask {__version__}; parameters {product.parameters}\n"
        write_text(product.path, head + text())
    except OutputError as error:
        return product.but(status="failed", reason=" ".join(str(error).split()))
    except GalprepError as error:
        product.path.unlink(missing_ok=True)  # what is left of other parameters
        return product.but(status="failed", reason=" ".join(str(error).split()))
    return product


def _feedme(band: Band, record: dict, cut: Cut, found: Found) -> str:
    if record["zeropoint"] is None or found.mag is None:
        raise MissingZeropointError(
            f"magnitudes of band {band.name!r} need a zero point, and its header has none. Give zeropoint in the "
            "configuration."
        )
    scale, psf = record["pixel_scale"], record["psf"]
    start = GalfitStart(
        cut.x - cut.x0 + found.dx, cut.y - cut.y0 + found.dy, found.mag, found.r_eff / scale,
        axis_ratio=found.axis_ratio, position_angle=found.position_angle,
    )  # fmt: skip
    return feedme_text(
        cut.path.name, (cut.ny, cut.nx), start, pixel_scale=scale, zeropoint=record["zeropoint"],
        exptime=record["exptime"], has_psf=psf["source"] != "none", psf_size=psf.get("size", 0),
        output=f"{cut.path.stem}_galfit.fits",
    )  # fmt: skip


def _lyric(target: Target, made: list[Member], like: Found | None) -> str:
    images = [
        LyricBand(
            cut.path.name, band.galfits_band or band.name, record["pixel_scale"],
            max(cut.nx, cut.ny) * record["pixel_scale"] / 2, record["zeropoint"], record["sky"]["std"],
            has_psf=record["psf"]["source"] != "none", wavelength=band.wavelength, atlas=band.atlas,
        )
        for band, record, cut, _ in made
    ]  # fmt: skip
    start = None
    if like is not None:
        record = next(record for _, record, _, found in made if found is like)
        start = SersicStart(
            like.dx * record["pixel_scale"], like.dy * record["pixel_scale"], like.r_eff,
            axis_ratio=like.axis_ratio, position_angle=like.position_angle,
        )  # fmt: skip
    return lyric_text(
        target.file_name, target.ra, target.dec, images, start=start, redshift=target.redshift, ebv=target.ebv
    )
