"""The PSF: stars that it is made of, and the model that is fitted to them.

Parts are loaded on first use: choosing stars needs none of what fitting does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from galprep_dask.psf.select import select_stars

_FUNCTIONS = {"select_stars": "galprep_dask.psf.select"}

__all__ = ["select_stars"]


def __getattr__(name):
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FUNCTIONS[name]), name)


def __dir__():
    return sorted(__all__)
