"""Catalogues as files."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable

from galprep_dask.errors import ParameterError
from galprep_dask.io.atomic import atomic_path

__all__ = ["write_catalog"]

_FORMATS = {".parquet": "parquet", ".ecsv": "ascii.ecsv", ".fits": "fits"}


def write_catalog(table: QTable, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """
    Write a catalogue to a file that appears whole or not at all.

    Parameters
    ----------
    table : QTable
        From :func:`source_catalog`.
    path : str or path
        Its suffix says what to write: ``.parquet`` (for millions of rows; needs ``pyarrow``), ``.fits`` or ``.ecsv``
        (text).
    overwrite : bool
        Whether a file that exists may be replaced.

    Returns
    -------
    Path
        The file. ``QTable.read`` gives the table back with its units. Sky coordinates are columns of degrees, ICRS:
        ``ra`` and ``dec`` for ``sky_centroid``, ``ra_win`` and ``dec_win`` for ``sky_centroid_win``.

    Raises
    ------
    ParameterError
        The suffix is none of these, or ``pyarrow`` is not installed.
    OutputExistsError, OutputError
        The file exists; it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_catalog(QTable({"label": [1, 2], "area": [5, 9] * u.pix**2}), f"{folder}/sources.ecsv")
    ...     QTable.read(path)["area"].unit
    Unit("pix2")
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ParameterError(f"cannot write a catalogue to {os.fspath(path)!r}; expected {', '.join(_FORMATS)}.")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ParameterError("writing Parquet needs pyarrow. Install it, or write .fits or .ecsv.")
    with atomic_path(path, overwrite) as temporary:
        _plain(table).write(temporary, format=_FORMATS[suffix])
    return Path(path).expanduser()


def _plain(table: QTable) -> QTable:
    """Replace sky coordinates by columns of degrees, which every reader understands."""
    plain = QTable(meta=table.meta)
    for name, column in table.items():
        if isinstance(column, SkyCoord):
            which = name.removeprefix("sky_centroid")
            plain[f"ra{which}"] = column.icrs.ra.to(u.deg)
            plain[f"dec{which}"] = column.icrs.dec.to(u.deg)
        else:
            plain[name] = column
    return plain
