"""A picture of every step of the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.table import Table

from galprep_dask.image import sky_to_pixel
from galprep_dask.plotting import plot_cutout, plot_segments, plot_sky, plot_truth
from galprep_dask.segmentation import detect_sources, smooth

__all__ = ["draw_all"]


def draw_all(
    directory: Path, image: xr.Dataset, sky, prepared: xr.Dataset, masked: xr.DataArray, files: list[Path],
    summary: Table,
) -> list[Path]:  # fmt: skip
    """
    Draw the sky, the segments, every cutout, and truth against result.

    Parameters
    ----------
    directory : Path
        Where to.
    image, prepared : Dataset
        Before and after.
    sky : PolynomialSky
        The sky that was subtracted.
    masked : DataArray
        Sources and bad pixels.
    files : list of Path
        Files written so far; the cutouts among them are drawn.
    summary : Table
        Truth against result.

    Returns
    -------
    list of Path
        The pictures.
    """
    drawn = [directory / "1_sky.png", directory / "2_segments.png"]
    data = prepared["data"]
    model = sky.evaluate(data.shape, data.data.chunks)
    plot_sky(image["data"], model, data, title="Sky subtraction", path=drawn[0])

    level = 2.0 * float(np.nanmedian(prepared["sigma"][::16, ::16]))
    segments = detect_sources(smooth(data, 3.0, prepared["mask"]), level)
    plot_segments(data, segments.data, masked, title=f"{segments.n_labels} segments and the mask", path=drawn[1])

    for cutout in (path for path in files if path.parent.name == "cutouts"):
        drawn.append(directory / f"3_{cutout.stem}.png")
        with fits.open(cutout) as hdus:
            header = hdus[0].header
            target = sky_to_pixel(header, header["RA_TARG"], header["DEC_TARG"])
            plot_cutout(
                hdus[0].data, hdus["MASK"].data.astype(bool), sigma=hdus["SIGMA"].data, target=target,
                title=cutout.stem.replace("_", " "), path=drawn[-1],
            )  # fmt: skip

    drawn.append(directory / "4_truth.png")
    of_targets = {}
    for row in summary:
        kind = row["quantity"].split(": ")[1] if row["quantity"].startswith("target") else None
        if kind is not None:
            of_targets.setdefault(kind, []).append((row["truth"], row["result"], row["error"]))
    panels = [(kind, *np.transpose(values)) for kind, values in of_targets.items()]
    plot_truth(panels, title="Targets: truth against result", path=drawn[-1])
    return drawn
