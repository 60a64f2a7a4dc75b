"""``galprep detect``: the sources of an image, and what they measure."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from galprep_dask.cli._options import (
    HDU,
    Connectivity,
    Deblend,
    Image,
    Json,
    Mask,
    NPixels,
    NSigma,
    Overwrite,
    Scheduler,
    Workers,
    hdu_of,
)  # fmt: skip
from galprep_dask.cli._report import report
from galprep_dask.cli._session import session

__all__ = ["detect"]


def detect(
    path: Image,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Catalogue to write: .parquet, .fits or .ecsv.")
    ],
    hdu: HDU = None,
    segmentation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for the label image: FITS, or .zarr.")
    ] = None,
    fwhm: Annotated[
        float, typer.Option(min=0.0, help="FWHM in pixels of the Gaussian to smooth with; 0 does not smooth.")
    ] = 3.0,
    n_sigma: NSigma = 3.0,
    threshold: Annotated[float | None, typer.Option(help="Threshold in the unit of the image, in its place.")] = None,
    n_pixels: NPixels = 5,
    connectivity: Connectivity = 8,
    box_size: Annotated[
        int, typer.Option(min=0, help="Subtract a sky from boxes of this many pixels first; 0 does not.")
    ] = 0,
    deblend: Deblend = False,
    n_levels: Annotated[int, typer.Option(min=1, help="Levels of deblending.")] = 32,
    contrast: Annotated[float, typer.Option(min=0.0, max=1.0, help="Contrast of deblending.")] = 0.001,
    mask: Mask = None,
    overwrite: Overwrite = False,
    workers: Workers = 0,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """
    Detect sources above a threshold and write their catalogue.

    Labels are those that photutils gives on the whole image, whatever the chunks. Examples:

        galprep detect mosaic_ss.fits -o sources.parquet

        galprep detect mosaic.fits --box-size 64 --deblend -o sources.fits
    """
    from astropy.io import fits

    from galprep_dask import open_image
    from galprep_dask.cutouts.provenance import record_provenance
    from galprep_dask.io.atomic import check_output
    from galprep_dask.segmentation import (
        deblend_sources,
        detect_sources,
        detect_threshold,
        write_catalog,
        write_segmentation,
    )

    for file in (output, segmentation):
        if file is not None:
            check_output(file, overwrite)
    image = open_image(path, hdu_of(hdu), mask=mask)
    bad = image.get("mask")
    parameters = {
        "fwhm": fwhm, "n_sigma": n_sigma, "threshold": threshold, "n_pixels": n_pixels, "connectivity": connectivity,
        "box_size": box_size, "mask": None if mask is None else Path(mask).name,
        **({"n_levels": n_levels, "contrast": contrast} if deblend else {}),
    }  # fmt: skip
    source = (image.attrs.get("path"), image.attrs.get("hdu"))
    recorded = partial(record_provenance, source=source, parameters={"detect": parameters})
    with session(workers, scheduler, quiet=as_json) as shown:
        if box_size:
            with shown.step("sky"):
                image = image.galprep.subtract_sky(image.galprep.fit_mesh_sky(box_size=box_size))
        smoothed = image.galprep.smooth(fwhm) if fwhm else image["data"]
        with shown.step("threshold"):
            level = detect_threshold(image["data"], n_sigma, mask=bad) if threshold is None else threshold
        with shown.step("sources"):
            found = detect_sources(
                smoothed, level, n_pixels, connectivity=connectivity, mask=bad, measure=image["data"]
            )
        if deblend:
            with shown.step("deblending"):
                found = deblend_sources(
                    smoothed, found, n_pixels, n_levels=n_levels, contrast=contrast, connectivity=connectivity, mask=bad
                )
        with shown.step("catalogue"):
            table = image.galprep.source_catalog(found)
        table.meta.update(recorded(fits.Header()))
        write_catalog(table, output, overwrite=overwrite)
        files = [output]
        if segmentation is not None:
            with shown.step(f"writing {segmentation}"):
                write_segmentation(found, segmentation, header=recorded(image.galprep.header), overwrite=overwrite)
            files.append(segmentation)
    rows = {"sources": len(table), "threshold": float(level), "files": [str(file) for file in files]}
    report(rows, title=f"sources of {path}", as_json=as_json)
