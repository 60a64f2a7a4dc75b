"""The targets of a run: a table of any kind, row by row checked."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.table import Table

from galprep_dask.errors import TargetTableError
from galprep_dask.pipeline.names import file_names

__all__ = ["Target", "read_targets"]

#: What columns are called, first to last; capitals do not matter.
_NAMES = {
    "name": ("name", "target", "id", "object", "objid", "object_id", "source_id", "designation"),
    "ra": ("ra", "ra_deg", "radeg", "raj2000", "ra_icrs", "ra_j2000", "alpha_j2000", "right_ascension"),
    "dec": ("dec", "dec_deg", "dedeg", "decdeg", "dej2000", "de_icrs", "dec_j2000", "delta_j2000", "declination"),
    "redshift": ("redshift", "z", "zspec", "z_spec", "zbest", "z_best", "zphot", "z_phot"),
    "ebv": ("ebv", "e_bv", "e(b-v)", "ebv_gal", "e_b_v"),
    "size": ("size", "size_arcsec"),
}


@dataclass(frozen=True)
class Target:
    """
    One row of the list.

    Parameters
    ----------
    row : int
        Its number, from 0.
    name : str
        As the table has it.
    file_name : str
        What its files are named with.
    ra, dec : float
        Degrees.
    redshift : float or None
        None where the table has none, or none that is positive.
    ebv : float
        Galactic reddening in mag; 0 where the table has none.
    size : float or None
        Side of its cutouts in arcsec, where the table says.
    problem : str
        Why nothing can be made for it, or empty.
    """

    row: int
    name: str
    file_name: str
    ra: float
    dec: float
    redshift: float | None = None
    ebv: float = 0.0
    size: float | None = None
    problem: str = ""


def read_targets(path: str | os.PathLike) -> list[Target]:
    """
    Read the targets of a run.

    Parameters
    ----------
    path : path
        Any table that astropy reads: ECSV, CSV, FITS, VOTable, Parquet ...

    Returns
    -------
    list of Target
        One for each row, in order. A row whose position is missing, not finite or not on the sky has a ``problem``:
        it is no reason to leave the others.

    Raises
    ------
    TargetTableError
        There is no such file, it is no table, it has no rows, or no column of degrees is a right ascension or a
        declination.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Table({"id": ["a"], "RA": [150.1], "DEC": [2.2], "z": [0.3]}).write(f"{folder}/targets.csv")
    ...     target = read_targets(f"{folder}/targets.csv")[0]
    >>> target.file_name, target.ra, target.redshift, target.ebv
    ('a', 150.1, 0.3, 0.0)
    """
    where = repr(os.fspath(path))
    table = _table(path, where)
    columns = {what: _column(table, names) for what, names in _NAMES.items()}
    for what in ("ra", "dec"):
        if columns[what] is None:
            raise TargetTableError(
                f"{where} has no column for {what}: looked for {', '.join(_NAMES[what])} in any capitals; it has "
                f"{', '.join(table.colnames)}."
            )
    ra = _degrees(table[columns["ra"]], where)
    dec = _degrees(table[columns["dec"]], where)
    names = [_text(value) for value in table[columns["name"]]] if columns["name"] else []
    names = names or [f"target{row + 1}" for row in range(len(table))]
    others = {what: _numbers(table, columns[what]) for what in ("redshift", "ebv", "size")}
    positions = list(zip(ra.tolist(), dec.tolist(), strict=True))
    targets = []
    for row, (name, file) in enumerate(zip(names, file_names(names, positions), strict=True)):
        redshift, ebv, size = (None if others[what] is None else float(others[what][row]) for what in others)
        targets.append(
            Target(
                row, name, file, ra[row].item(), dec[row].item(),
                redshift if redshift is not None and math.isfinite(redshift) and redshift > 0 else None,
                ebv if ebv is not None and math.isfinite(ebv) else 0.0,
                size if size is not None and math.isfinite(size) and size > 0 else None,
                _problem(ra[row], dec[row]),
            )
        )  # fmt: skip
    return targets


def _table(path, where: str) -> Table:
    try:
        table = Table.read(path)
    except FileNotFoundError:
        raise TargetTableError(f"there is no file {where} with targets.") from None
    except Exception as error:  # each reader has exceptions of its own
        raise TargetTableError(
            f"cannot read the targets in {where}: {str(error).strip().splitlines()[0]} Name the file by what it holds: "
            ".ecsv, .csv, .fits, .vot or .parquet."
        ) from error
    if len(table) == 0:
        raise TargetTableError(f"{where} has no rows: there are no targets.")
    return table


def _column(table: Table, names) -> str | None:
    lower = {name.casefold(): name for name in reversed(table.colnames)}
    return next((lower[name] for name in names if name in lower), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _degrees(column, where: str) -> np.ndarray:
    """Degrees of a column in degrees or with a unit; NaN where there is none."""
    if column.dtype.kind in "US":
        wrong = next((value for value in map(_text, column) if not _is_number(value)), _text(column[0]))
        raise TargetTableError(
            f"column {column.name!r} of {where} holds text, {wrong!r} for example; expected degrees."
        )
    if column.unit is not None and u.Unit(column.unit) == u.hourangle:
        return Angle(_filled(column), u.hourangle).deg
    if column.unit is not None and not u.Unit(column.unit).is_equivalent(u.deg):
        raise TargetTableError(f"column {column.name!r} of {where} is in {column.unit}; expected degrees.")
    values = _filled(column)
    return values if column.unit is None else (values * u.Unit(column.unit)).to_value(u.deg)


def _filled(column) -> np.ndarray:
    values = np.ma.asarray(column).astype(float)
    return np.ma.filled(values, np.nan)


def _numbers(table: Table, name: str | None) -> np.ndarray | None:
    if name is None or table[name].dtype.kind not in "iuf":
        return None
    return _filled(table[name])


def _problem(ra: float, dec: float) -> str:
    if not (math.isfinite(ra) and math.isfinite(dec)):
        return f"its position is not known: ra={ra}, dec={dec}"
    if not (-360 <= ra <= 360 and -90 <= dec <= 90):
        return f"ra={ra}, dec={dec} is not on the sky; are they the other way round?"
    return ""


def _text(value) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
