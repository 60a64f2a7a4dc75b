"""Where the files of a run lie in its output folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = [
    "band_folder", "band_record", "cutout_file", "feedme_file", "lyric_file", "manifest_file", "preview_file",
    "psf_file", "psf_residuals_file", "report_file", "run_record", "sky_file", "sources_file", "stars_file",
    "target_folder", "work_folder",
]  # fmt: skip

Folder = str | os.PathLike


def manifest_file(output: Folder, extension: str = "ecsv") -> Path:
    """
    Give the file of the manifest: one row for every product.

    Parameters
    ----------
    output : path
        Folder of the run.
    extension : {"ecsv", "parquet"}
        There are both.

    Returns
    -------
    Path

    Examples
    --------
    >>> manifest_file("run").as_posix()
    'run/manifest.ecsv'
    """
    return Path(output) / f"manifest.{extension}"


def run_record(output: Folder) -> Path:
    """Give the file that says what the run was asked for: the configuration, as it was read."""
    return Path(output) / "run.json"


def report_file(output: Folder) -> Path:
    """Give the file of the report."""
    return Path(output) / "report.html"


def work_folder(output: Folder) -> Path:
    """Give the folder of intermediate images, which may be removed when the run is over."""
    return Path(output) / "work"


def band_folder(output: Folder, band: str) -> Path:
    """Give the folder of what was measured in a band."""
    return Path(output) / "bands" / band


def band_record(output: Folder, band: str) -> Path:
    """Give the record of a band: what its files were made with, step by step, and what was measured."""
    return band_folder(output, band) / "band.json"


def sky_file(output: Folder, band: str) -> Path:
    """Give the model of the sky of a band."""
    return band_folder(output, band) / "sky.npz"


def preview_file(output: Folder, band: str) -> Path:
    """Give the small versions of the images of a band."""
    return band_folder(output, band) / "preview.npz"


def sources_file(output: Folder, band: str) -> Path:
    """Give the catalogue of a band."""
    return band_folder(output, band) / "sources.parquet"


def stars_file(output: Folder, band: str) -> Path:
    """Give the table of the stars of a band: all that were looked at, and why some were not used."""
    return band_folder(output, band) / "stars.ecsv"


def psf_file(output: Folder, band: str) -> Path:
    """Give the PSF of a band."""
    return band_folder(output, band) / "psf.fits"


def psf_residuals_file(output: Folder, band: str) -> Path:
    """Give what the fit of the PSF leaves of the stars."""
    return band_folder(output, band) / "psf_residuals.npz"


def target_folder(output: Folder, file_name: str) -> Path:
    """Give the folder of a target; ``file_name`` is its safe name."""
    return Path(output) / "targets" / file_name


def cutout_file(output: Folder, file_name: str, band: str) -> Path:
    """Give the cutout of a target in a band."""
    return target_folder(output, file_name) / f"{file_name}_{band}.fits"


def feedme_file(output: Folder, file_name: str, band: str) -> Path:
    """Give the GALFIT input of a target in a band."""
    return target_folder(output, file_name) / f"{file_name}_{band}.feedme"


def lyric_file(output: Folder, file_name: str) -> Path:
    """Give the GalfitS configuration of a target."""
    return target_folder(output, file_name) / f"{file_name}.lyric"
