"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from galprep_dask.errors import GalprepError, OutputError, OutputExistsError, ParameterError
from galprep_dask.io.files import is_remote, local_path

__all__ = ["atomic_path", "check_output"]


def check_output(path: str | os.PathLike, overwrite: bool) -> Path:
    """
    Check that ``path`` can be written, before any work is done for it.

    Parameters
    ----------
    path : str or path
        The file or directory to be made.
    overwrite : bool
        Whether one that exists may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputExistsError
        It exists, and ``overwrite`` is False.
    OutputError
        Its directory does not exist or may not be written to.
    ParameterError
        It is a URL.
    """
    if is_remote(os.fspath(path)):
        raise ParameterError(f"cannot write to {os.fspath(path)!r}: write a local file and upload it.")
    path = Path(local_path(os.fspath(path)))
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{str(path)!r} exists. Pass overwrite=True to replace it, or another path.")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {str(path)!r}: there is no directory {str(path.parent)!r}. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {str(path)!r}: directory {str(path.parent)!r} may not be written to.")
    return path


@contextmanager
def atomic_path(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    Give a temporary name beside ``path`` to write to, and rename it when all went well.

    Parameters
    ----------
    path : str or path
        The file or directory to be made.
    overwrite : bool
        Whether one that exists may be replaced.

    Yields
    ------
    Path
        Temporary name in the same directory. Whatever is there is removed when the block fails.

    Raises
    ------
    OutputExistsError, OutputError, ParameterError
        As :func:`check_output`; and OutputError for whatever the system says while writing, a full disk
        for example. A file that was at ``path`` before is then as it was.
    """
    path = check_output(path, overwrite)
    # Workers that write into it may have been started in another folder.
    temporary = path.absolute().with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            # A directory cannot be renamed onto one that has files: the old one steps aside first.
            aside = temporary.with_suffix(".old")
            os.replace(path, aside)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(aside, path)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except GalprepError:  # an image that cannot be read, for example: not the fault of this file
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "Free some space or choose another directory." if full else "Mend that, or choose another directory."
        raise OutputError(
            f"cannot write {str(path)!r}: {error}. Nothing half-written was left behind. {hint}"
        ) from error
    finally:
        if temporary.is_dir():
            # Under another name, where those who are still writing do not find it.
            aside = temporary.with_suffix(".old")
            os.replace(temporary, aside)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
