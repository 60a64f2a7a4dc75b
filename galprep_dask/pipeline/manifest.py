"""The manifest: a row for every product that was wanted, with what became of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from galprep_dask._version import __version__
from galprep_dask.io.atomic import atomic_path
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.targets import Target

__all__ = ["Product", "write_manifest"]

#: Numbers of a row, with what they are.
_NUMBERS = {
    "redshift": "of the table of targets",
    "mag": "magnitude of the segment in the catalogue",
    "re": "half-light radius in arcsec from the second moments, the PSF taken off",
    "q": "axis ratio, likewise",
    "masked": "fraction of the pixels of the cutout that are masked",
    "sigchk": "std of data / sigma where there is no source, in the band",
    "fwhm": "FWHM of the PSF of the band in arcsec",
}


@dataclass(frozen=True)
class Product:
    """
    One row.

    Parameters
    ----------
    target : Target
        Of what.
    kind : {"cutout", "lyric", "feedme"}
    band : str
        Empty where it is of all bands.
    path : Path
        Its file.
    parameters : str
        Hash of what it is made with.
    status : {"done", "failed", "skipped"}
    reason : str
        Why it is not there.
    flags : list of str
        What a look at it should begin with.
    numbers : dict
        What was measured, by the names of the columns.
    """

    target: Target
    kind: str
    band: str
    path: Path
    parameters: str
    status: str = "done"
    reason: str = ""
    flags: list[str] = field(default_factory=list)
    numbers: dict[str, float | None] = field(default_factory=dict)

    def but(self, **changes) -> Product:
        """Give the same row with other values."""
        return replace(self, **changes)


def write_manifest(output: Path, products: Iterable[Product]) -> None:
    """
    Write the manifest as ECSV and as Parquet, each whole or not at all.

    Parameters
    ----------
    output : Path
        Folder of the run.
    products : iterable of Product
        In the order of the rows.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    table = _table(output, list(products))
    for extension, kind in (("ecsv", "ascii.ecsv"), ("parquet", "parquet")):
        with atomic_path(layout.manifest_file(output, extension), overwrite=True) as temporary:
            table.write(temporary, format=kind)


def _table(output: Path, products: list[Product]) -> Table:
    columns = {
        "target": [product.target.name for product in products],
        "file_name": [product.target.file_name for product in products],
        "ra": np.array([product.target.ra for product in products], float),
        "dec": np.array([product.target.dec for product in products], float),
        "kind": [product.kind for product in products],
        "band": [product.band for product in products],
        "path": [Path(os.path.relpath(product.path, output)).as_posix() for product in products],
        "status": [product.status for product in products],
        "reason": [product.reason for product in products],
        "flags": [",".join(product.flags) for product in products],
        "parameters": [product.parameters for product in products],
    }
    columns = {name: np.array(values, str) if isinstance(values, list) else values for name, values in columns.items()}
    table = Table(columns, meta={"version": __version__})
    for name, description in _NUMBERS.items():
        values = [product.target.redshift if name == "redshift" else product.numbers.get(name) for product in products]
        table[name] = np.array([math.nan if value is None else float(value) for value in values], float)
        table[name].info.description = description
    return table
