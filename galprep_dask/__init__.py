"""From wide-field astronomical mosaics to the inputs of galaxy-fitting codes, block by block.

Images are xarray Datasets of lazy dask arrays; every step works on blocks and gives the same answer for every
chunking. Importing the package is quick: rooms are loaded on first use.

Examples
--------
>>> import galprep_dask as gp, numpy as np
>>> image = gp.open_image(np.ones((300, 200)))
>>> image.galprep.shape
(300, 200)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from galprep_dask import accessor as _accessor  # noqa: F401 - registers Dataset.galprep
from galprep_dask._version import __version__

if TYPE_CHECKING:
    from galprep_dask.image import make_image
    from galprep_dask.io import open_image, write_image

_FUNCTIONS = {
    "make_image": "galprep_dask.image",
    "open_image": "galprep_dask.io",
    "write_image": "galprep_dask.io",
}
_MODULES = (
    "cutouts", "demo", "errors", "gsutils", "image", "images", "io", "masks", "noise", "plotting", "psf",
    "segmentation", "sky", "stats",
)  # fmt: skip

__all__ = ["__version__", "make_image", "open_image", "write_image", *_MODULES]


def __getattr__(name):
    if name in _FUNCTIONS:
        value = getattr(import_module(_FUNCTIONS[name]), name)
    elif name in _MODULES:
        value = import_module(f"galprep_dask.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
