"""Answers of the archive on disk, each under a name made from its question.

Releases of Gaia do not change, so neither does an answer: what was asked once is never asked again, on this machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from pathlib import Path

from astropy.table import QTable
from platformdirs import user_cache_path

from galprep_dask.errors import GalprepError, GalprepWarning, ParameterError
from galprep_dask.io.atomic import atomic_path

__all__ = ["cache_folder", "keep", "recall"]

# What is written changes with it: another layout is another name.
_LAYOUT = 1

_log = logging.getLogger("galprep_dask.gaia")


def cache_folder(cache: bool | str | os.PathLike = True) -> Path | None:
    """
    Tell where answers of the Gaia archive are kept.

    Parameters
    ----------
    cache : bool, str or path
        True for ``gaia`` in the user's cache folder (``~/.cache/galprep-dask`` on Linux, ``$XDG_CACHE_HOME`` is
        respected); a folder; False for nowhere.

    Returns
    -------
    Path or None

    Raises
    ------
    ParameterError
        It is none of these, or a file.

    Examples
    --------
    >>> cache_folder("somewhere").name, cache_folder(False)
    ('somewhere', None)
    """
    if cache is None or cache is False:
        return None
    if cache is True:
        return user_cache_path("galprep-dask") / "gaia"
    try:
        folder = Path(cache).expanduser()
    except TypeError:
        raise ParameterError(f"cache={cache!r}; expected True, False or a folder.") from None
    if folder.exists() and not folder.is_dir():
        raise ParameterError(f"cache={os.fspath(cache)!r} is a file; expected a folder, True or False.")
    return folder


def recall(folder: Path | None, url: str, query: str) -> QTable | None:
    """Give the answer to a query if it was kept."""
    if folder is None:
        return None
    path = folder / _name(url, query)
    try:
        return QTable.read(path, format="parquet")
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file is no reason to stop: the archive still knows
        _log.warning("%s cannot be read and is asked for again: %s", path, error)
        return None


def keep(folder: Path | None, url: str, query: str, table: QTable) -> None:
    """Keep an answer; a folder that cannot be written to is warned about."""
    if folder is None:
        return
    path = folder / _name(url, query)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, overwrite=True) as temporary:
            table.write(temporary, format="parquet")
    except (OSError, GalprepError) as error:
        warnings.warn(f"the answer of the Gaia archive could not be kept: {error}", GalprepWarning, stacklevel=2)


def _name(url: str, query: str) -> str:
    question = json.dumps([_LAYOUT, url.rstrip("/"), query])
    return hashlib.sha256(question.encode()).hexdigest()[:40] + ".parquet"
