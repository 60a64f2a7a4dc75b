"""What a run left in its folder, read so that a missing or damaged part is told and not stumbled over."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from galprep_dask.errors import ReportError
from galprep_dask.pipeline import layout

__all__ = ["BandFolder", "Column", "Product", "RunFolder", "read_folder"]

#: Columns of the manifest that say what a product is; all others hold what was measured.
IDENTITY = (
    "target", "file_name", "ra", "dec", "kind", "band", "path", "status", "reason", "flags", "parameters",
)  # fmt: skip
_NEEDED = ("target", "file_name", "kind", "band", "status")
_RECORD_TABLES = ("sky", "segmentation", "sigma", "stars", "psf")


@dataclass(frozen=True)
class Column:
    """A measured column of the manifest: its name, unit and description."""

    name: str
    unit: str = ""
    description: str = ""


@dataclass(frozen=True)
class Product:
    """A row of the manifest. Texts are never None; numbers that are unknown are."""

    target: str
    file_name: str
    kind: str
    band: str
    status: str
    path: str = ""
    reason: str = ""
    flags: tuple[str, ...] = ()
    parameters: str = ""
    ra: float | None = None
    dec: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class BandFolder:
    """
    What there is of a band.

    Attributes
    ----------
    name : str
    record : dict
        Of band.json; its sections are dictionaries, or not there.
    problems : list of str
        What is wrong with the folder itself.
    """

    name: str
    record: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def section(self, name: str) -> dict[str, Any]:
        """Give a section of the record, empty where there is none."""
        return self.record.get(name) or {}

    @property
    def failed(self) -> bool:
        """Whether the band came to nothing."""
        return self.record.get("status") == "failed"


@dataclass(frozen=True)
class RunFolder:
    """A run: its folder, the rows and measured columns of its manifest, its bands, and what it was asked for."""

    path: Path
    products: list[Product]
    columns: list[Column]
    bands: list[BandFolder]
    settings: dict[str, Any]
    version: str
    problems: list[str]


def read_folder(folder: str | os.PathLike) -> RunFolder:
    """
    Read what a run left behind, but not its images.

    Parameters
    ----------
    folder : path
        Output folder of a run.

    Returns
    -------
    RunFolder

    Raises
    ------
    ReportError
        There is no such folder, it has no manifest, or the manifest cannot be read.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ReportError(f"there is no folder {str(path)!r}; expected the output folder of a run.")
    table = _read_manifest(layout.manifest_file(path))
    columns = [
        Column(name, str(table[name].unit or ""), str(table[name].info.description or ""))
        for name in table.colnames
        if name not in IDENTITY
    ]
    products = _products(table, columns)
    problems: list[str] = []
    asked = _read_json(layout.run_record(path), problems) if layout.run_record(path).exists() else {}
    settings = asked["config"] if isinstance(asked.get("config"), dict) else {}
    bands = [_read_band(path, name) for name in _band_names(path, products, settings)]
    return RunFolder(path, products, columns, bands, settings, str(asked.get("version") or ""), problems)


def _read_manifest(file: Path) -> Table:
    if not file.exists():
        raise ReportError(
            f"{str(file.parent)!r} has no {file.name}: it is not the output folder of a run, or the run did not come "
            "that far. Run galprep run again, it goes on where it stopped."
        )
    try:
        table = Table.read(file, format="ascii.ecsv")
    except Exception as error:  # readers of tables have exceptions of their own
        said = str(error).strip() or type(error).__name__
        raise ReportError(
            f"cannot read {str(file)!r}: {said.splitlines()[0]} Run galprep run again, it writes the manifest anew."
        ) from error
    if missing := [name for name in _NEEDED if name not in table.colnames]:
        raise ReportError(
            f"{str(file)!r} is no manifest of a run: it has no column {', '.join(missing)}, but "
            f"{', '.join(table.colnames) or 'none at all'}."
        )
    return table


def _products(table: Table, columns: list[Column]) -> list[Product]:
    plain = {name: _plain_column(table[name]) for name in table.colnames}
    empty = [None] * len(table)
    get = lambda name: plain.get(name, empty)  # noqa: E731
    texts = {name: ["" if value is None else str(value) for value in get(name)] for name in IDENTITY}
    return [
        Product(
            texts["target"][k], texts["file_name"][k], texts["kind"][k], texts["band"][k], texts["status"][k],
            texts["path"][k], texts["reason"][k], _words(texts["flags"][k]), texts["parameters"][k],
            _number(get("ra")[k]), _number(get("dec")[k]),
            {column.name: plain[column.name][k] for column in columns},
        )
        for k in range(len(table))
    ]  # fmt: skip


def _plain_column(column) -> list:
    """Give Python's own values, None for what is masked or not finite."""
    masked = np.ma.getmaskarray(column) if hasattr(column, "mask") else np.zeros(len(column), bool)
    values = np.ma.getdata(column).tolist()
    return [None if bad or _not_finite(value) else value for value, bad in zip(values, masked.tolist(), strict=True)]


def _not_finite(value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _number(value) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _words(flags: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for part in flags.split(",") for word in part.replace(";", " ").split()))


def _band_names(path: Path, products: list[Product], settings: dict) -> list[str]:
    """Give all bands: in the order of the configuration, then of the manifest, then those that only have a folder."""
    names = []
    configured = settings.get("bands")
    for band in configured if isinstance(configured, list) else ():
        name = band.get("name") if isinstance(band, dict) else None
        names += [name] if isinstance(name, str) else []
    names += [product.band for product in products if product.band]
    parent = layout.band_folder(path, "any").parent
    if parent.is_dir():
        names += sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    return list(dict.fromkeys(names))


def _read_band(path: Path, name: str) -> BandFolder:
    band = BandFolder(name)
    if Path(name).name != name or name == ".." or "\0" in name:
        band.problems.append("This is no name of a band: nothing was read for it.")
        return band
    file = layout.band_record(path, name)
    if not file.exists():
        band.problems.append(f"There is no {file.name}: the band was not finished.")
        return band
    record = _read_json(file, band.problems)
    for key in _RECORD_TABLES:
        if record.get(key) is not None and not isinstance(record[key], dict):
            band.problems.append(f"{file.name}: {key} is {json.dumps(record.pop(key))[:60]}; expected a table.")
    band.record = record
    return band


def _read_json(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {error}.")
        return {}
    if not isinstance(record, dict):
        problems.append(f"{file.name} holds no record, but a {type(record).__name__}.")
        return {}
    return record
