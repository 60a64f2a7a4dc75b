"""Gaia tables on disk: FITS, Parquet, CSV, ECSV, VOTable and HATS.

Of large ones only what lies in the footprint is read.
"""

from __future__ import annotations

import gzip
import os
import warnings
from contextlib import contextmanager
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table

from galprep_dask.errors import CatalogError, CatalogNotFoundError, GalprepError, ParameterError
from galprep_dask.gaia.columns import degrees, find_columns, normalise
from galprep_dask.gaia.footprint import Box, Footprint, cut_to
from galprep_dask.image import WARNINGS_LOCK
from galprep_dask.io.files import is_remote

__all__ = ["read_gaia_table"]

_FORMATS = {
    ".fits": "fits", ".fit": "fits", ".fts": "fits",
    ".parquet": "parquet", ".parq": "parquet", ".pq": "parquet",
    ".csv": "csv", ".ecsv": "ascii.ecsv",
    ".vot": "votable", ".votable": "votable", ".xml": "votable",
}  # fmt: skip

_KNOWN = (
    "FITS (.fits), Parquet (.parquet), CSV (.csv), ECSV (.ecsv), VOTable (.vot, .xml) or the folder of a HATS catalogue"
)

# What stands for nothing in a CSV file; the archive's own bulk files say null.
_NULLS = ["", "null", "NULL", "None", "nan", "NaN", "--"]


def read_gaia_table(
    catalog: str | os.PathLike | Table, *, footprint: Footprint | None = None, ref_epoch: float | None = None
) -> QTable:
    """
    Read a table of Gaia sources, whichever release, format and spelling it comes in.

    Parameters
    ----------
    catalog : str, path or Table
        A file (FITS, Parquet, CSV, ECSV, VOTable; its suffix says which, ``.gz`` may follow), a folder of Parquet
        files or of a HATS catalogue, or a table that was read already. Column names are those of the archive in upper
        or lower case, or VizieR's; coordinates without a unit are degrees.
    footprint : Footprint, optional
        From :func:`make_footprint`. Only rows near it are read, of Parquet, HATS, CSV and FITS without ever holding
        the others.
    ref_epoch : float, optional
        Julian year of the positions. By default from the column ``ref_epoch``, or from a ``designation`` that names
        the release.

    Returns
    -------
    QTable
        ``ra``, ``dec`` (deg, at ``ref_epoch``), ``ref_epoch`` (yr), ``pmra``, ``pmdec`` (mas/yr), ``parallax`` (mas)
        and ``phot_g_mean_mag``, NaN where there is none; and, as far as the table has them, ``source_id`` and the
        columns that :func:`extended_because` looks at. Rows without coordinates are left out, and of rows with the
        same ``source_id`` all but the first.

    Raises
    ------
    CatalogNotFoundError
        There is no such file.
    CatalogError
        It has no coordinates, or they are text or in hours; it has proper motions of no known epoch; it is damaged.
    ParameterError
        The format is none of these.

    Examples
    --------
    >>> stars = Table({"RA": [10.1, 10.2], "DEC": [41.2, 41.3], "DESIGNATION": ["Gaia DR3 1", "Gaia DR3 2"]})
    >>> read_gaia_table(stars)["ra", "dec", "ref_epoch"].colnames
    ['ra', 'dec', 'ref_epoch']
    """
    if isinstance(catalog, Table):
        where, table, found = "the table", *_from_table(catalog, footprint, "the table")
    else:
        path, kind = _format_of(catalog)
        where = repr(os.fspath(catalog))
        with _clear_errors(where):
            if kind == "csv" and _first_bytes(path).startswith(b"#"):
                kind = "ascii.ecsv"  # as the archive's bulk files are
            if kind in ("parquet", "csv"):
                table, found = _from_arrow(path, kind, footprint, where)
            elif kind == "fits":
                table, found = _from_fits(path, footprint, where)
            else:
                with WARNINGS_LOCK, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # units and versions of VOTables that no reader minds
                    table = _read_text(path, kind)
                table, found = _from_table(table, footprint, where)
    return without_repeats(normalise(table, where=where, ref_epoch=ref_epoch, found=found))


def without_repeats(table: QTable) -> QTable:
    """Leave out rows whose ``source_id`` has come before."""
    if "source_id" not in table.colnames:
        return table
    identifiers = np.asarray(table["source_id"])
    first = np.zeros(len(table), bool)
    first[np.unique(identifiers, return_index=True)[1]] = True
    return table[first | (identifiers < 0)]


def _format_of(catalog: str | os.PathLike) -> tuple[Path, str]:
    try:
        text = os.fspath(catalog)
    except TypeError:
        raise ParameterError(
            f"gaia_catalog is a {type(catalog).__name__}; expected a path or an astropy Table."
        ) from None
    if is_remote(text):
        raise ParameterError(f"gaia_catalog={text!r} is a URL; expected a local file. Download it first.")
    path = Path(text.removeprefix("file://").removeprefix("local://")).expanduser()
    if not path.exists():
        raise CatalogNotFoundError(f"there is no catalogue {text!r}. Check the path, gaia_catalog=.")
    if path.is_dir():
        return path, "parquet"
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = _FORMATS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise ParameterError(f"cannot tell what kind of catalogue {text!r} is; expected {_KNOWN}.")
    return path, kind


def _first_bytes(path: Path) -> bytes:
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        return file.read(16)


def _read_text(path: Path, kind: str) -> Table:
    if kind == "votable":
        return Table.read(path, format="votable")
    return Table.read(path, format=kind, fill_values=[(text, "0") for text in _NULLS])


@contextmanager
def _clear_errors(where: str):
    """Turn what a reader raises into an error that names the catalogue."""
    try:
        yield
    except (GalprepError, MemoryError):
        raise
    except Exception as error:  # every reader has its own
        message = " ".join(str(error).split()) or type(error).__name__
        message = message if len(message) < 300 else "... " + message[-300:]  # Arrow says last what is wrong
        raise CatalogError(
            f"{where} cannot be read: {message}. It may be truncated, damaged or of another format; expected {_KNOWN}, "
            "with coordinates as numbers of degrees."
        ) from error


def _from_table(table: Table, footprint: Footprint | None, where: str) -> tuple[Table, dict]:
    found = find_columns(table.colnames, where=where)
    if footprint is None:
        return table, found
    ra, dec = (degrees(table[found[name]], where) for name in ("ra", "dec"))
    return table[_near(footprint, ra, dec, where)], found


def _near(footprint: Footprint, ra: np.ndarray, dec: np.ndarray, where: str) -> np.ndarray:
    near = cut_to(footprint, ra, dec)
    if not near.any() and len(ra) and np.nanmax(ra) <= 24 and cut_to(footprint, ra * 15, dec).any():
        raise _in_hours(where)
    return near


def _in_hours(where: str) -> CatalogError:
    return CatalogError(
        f"no star of {where} lies in the image, but they would if its right ascensions, all of 24 and less, were "
        "hours. Expected degrees: multiply them by 15, or give the column its unit (hourangle)."
    )


def _from_fits(path: Path, footprint: Footprint | None, where: str) -> tuple[Table, dict]:
    with fits.open(path, memmap=path.suffix.lower() != ".gz") as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise CatalogError(f"{where} has no table among its {len(hdus)} HDUs. Name a FITS table.")
        hdu = tables[0]
        found = find_columns(hdu.columns.names, where=where)
        rows = slice(None)
        if footprint is not None:
            ra, dec = (degrees(_fits_column(hdu, found[name]), where) for name in ("ra", "dec"))
            rows = np.flatnonzero(_near(footprint, ra, dec, where))
        table = Table([_fits_column(hdu, name, rows) for name in dict.fromkeys(found.values())])
    return table, found


def _fits_column(hdu: fits.BinTableHDU, name: str, rows=slice(None)) -> Column:
    values = np.array(hdu.data.field(name)[rows])
    description = hdu.columns[name]
    mask = values == description.null if description.null is not None and values.dtype.kind in "iu" else False
    return MaskedColumn(values, name=name, unit=description.unit, mask=mask)


def _from_arrow(path: Path, kind: str, footprint: Footprint | None, where: str) -> tuple[Table, dict]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.dataset as ds

    own = {}
    if kind == "csv":
        numbers = {}
        read = pa.csv.ConvertOptions(null_values=_NULLS, strings_can_be_null=True, column_types=numbers)
        names = ds.dataset(path, format=ds.CsvFileFormat(convert_options=read)).schema.names
        found = find_columns(names, where=where)
        # Types are guessed from the first block only, where a column may well be empty.
        text = {"source_id", "designation", "duplicated_source", "in_galaxy_candidates", "in_qso_candidates"}
        read.column_types = {name: pa.string() if column in text else pa.float64() for column, name in found.items()}
        dataset = ds.dataset(path, format=ds.CsvFileFormat(convert_options=read))
    else:
        dataset, own = _parquet_dataset(path, where)
        found = find_columns(dataset.schema.names, where=where, **own)
    units = _arrow_units(dataset.schema)
    ra, dec = found["ra"], found["dec"]

    rows = None
    in_degrees = not {units.get(ra), units.get(dec)} - {None, "deg", "degree"}
    if footprint is not None and in_degrees:
        rows = _within(footprint.hull(), ra, dec)
    arrow = dataset.to_table(columns=list(dict.fromkeys(found.values())), filter=rows)
    if rows is not None and not len(arrow):
        hours = _within(footprint.hull(), ra, dec, per_hour=15.0)
        if dataset.count_rows(filter=hours) and not dataset.count_rows(filter=ds.field(ra) > 24):
            raise _in_hours(where)
    table = Table([_arrow_column(arrow, name, units) for name in arrow.column_names])
    return table if in_degrees else _from_table(table, footprint, where)[0], found


def _parquet_dataset(path: Path, where: str):
    """Give an Arrow dataset of a file or folder, and what a HATS catalogue says its coordinates are called."""
    import pyarrow.dataset as ds

    if path.is_file():
        return ds.dataset(path, format="parquet"), {}
    properties = _properties(path / "collection.properties")
    if "hats_primary_table_url" in properties:
        path = path / properties["hats_primary_table_url"]
    properties = _properties(path / "hats.properties") or _properties(path / "properties")
    own = {"ra": properties.get("hats_col_ra"), "dec": properties.get("hats_col_dec")} if properties else {}
    inside = path / "dataset" if (path / "dataset").is_dir() else path
    if (inside / "_metadata").is_file():
        # The range of every column in every partition, in one file: what lies elsewhere is not even opened.
        return ds.parquet_dataset(inside / "_metadata"), own
    # Names that begin with an underscore hold no rows, and other files are a catalogue's maps and statistics.
    files = [file for file in inside.rglob("*.parquet") if not file.name.startswith(("_", "."))]
    if properties:
        files = [file for file in files if "Npix=" in file.as_posix()]
    if not files:
        raise CatalogError(f"{where} is a folder without Parquet files; expected {_KNOWN}.")
    return ds.dataset(sorted(files), format="parquet"), own


def _properties(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in lines}


def _within(boxes: list[Box], ra: str, dec: str, per_hour: float = 1.0):
    """Give the rows of boxes as an expression; Arrow checks it against the statistics of files and row groups first."""
    import pyarrow.dataset as ds

    parts = []
    for box in boxes:
        for turn in (0.0, -360.0):  # right ascensions may be written from -180 to 180
            low, high = ((edge + turn) / per_hour for edge in (box.ra_min, box.ra_max))
            across = (ds.field(ra) >= low) & (ds.field(ra) <= high)
            parts.append(across & (ds.field(dec) >= box.dec_min) & (ds.field(dec) <= box.dec_max))
    return reduce(or_, parts)


def _arrow_units(schema) -> dict[str, str]:
    """Read the units that astropy writes beside the columns of Parquet files."""
    from astropy.table.meta import get_header_from_yaml

    text = (schema.metadata or {}).get(b"table_meta_yaml")
    if text is None:
        return {}
    header = get_header_from_yaml(text.decode().split("\n"))
    return {column["name"]: str(column["unit"]) for column in header["datatype"] if column.get("unit") is not None}


def _arrow_column(arrow, name: str, units: dict[str, str]) -> MaskedColumn:
    import pyarrow as pa

    column = arrow[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    mask = np.asarray(column.is_null())
    if mask.any():
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        column = column.fill_null("" if is_text else False if pa.types.is_boolean(column.type) else 0)
    values = column.to_numpy()
    if values.dtype == object and len(values):
        values = values.astype(str)
    return MaskedColumn(values, name=name, mask=mask, unit=units.get(name))
