"""The one call of photutils' ``deblend_sources``, of any version, from any thread."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning

from galprep_dask.image import WARNINGS_LOCK

__all__ = ["deblend_ranks", "is_compiled", "parameters"]


def deblend_ranks(values: np.ndarray, ranks: np.ndarray, n_pixels: int, **how) -> np.ndarray | None:
    """
    Deblend segments that have the numbers 1, 2 ... n; their children are numbered from n + 1, parent by parent.

    None where photutils refuses one of them, because a piece of it cannot be reached from any of its peaks.
    """
    from photutils.segmentation import SegmentationImage
    from photutils.segmentation import deblend_sources as deblend_whole

    compiled = is_compiled()
    if not compiled:
        how["progress_bar"] = False
    with nullcontext() if compiled else WARNINGS_LOCK, _quiet():
        try:
            return deblend_whole(values, SegmentationImage(ranks), n_pixels, relabel=False, **how).data
        except ValueError as error:
            if "Deblending failed" in str(error):
                return None
            raise


@cache
def parameters() -> frozenset[str]:
    """Name the parameters of the installed photutils' ``deblend_sources``."""
    from photutils.segmentation import deblend_sources as deblend_whole

    return frozenset(inspect.signature(deblend_whole).parameters)


def is_compiled() -> bool:
    """
    Tell whether the installed photutils deblends in compiled code, as 3.1 does.

    That lets go of the GIL. 3.0 runs Python code for every source, changes the filters of warnings while it does so,
    and draws a progress bar unless told not to: one thread at a time.
    """
    return "n_threads" in parameters()


_inside = {"threads": 0, "filters": None}


@contextmanager
def _quiet() -> Iterator[None]:
    """
    Keep photutils from warning that it replaced ``mode``, which is documented here.

    Filters of warnings belong to the process. The first thread inside sets one and the last takes it off, both
    under the lock that all of this package holds while it changes them: none is left behind, and threads work at
    the same time.
    """
    with WARNINGS_LOCK:
        if _inside["threads"] == 0:
            _inside["filters"] = warnings.catch_warnings()
            _inside["filters"].__enter__()
            warnings.filterwarnings("ignore", "The deblending mode", AstropyUserWarning)
        _inside["threads"] += 1
    try:
        yield
    finally:
        with WARNINGS_LOCK:
            _inside["threads"] -= 1
            if _inside["threads"] == 0:
                _inside["filters"].__exit__(None, None, None)
