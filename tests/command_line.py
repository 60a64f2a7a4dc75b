"""The command line, run in this process as a user runs it, and a field for it."""

import contextlib
import io
import os
import threading
import warnings
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table
from fields import gaussian, tan_header

from galprep_dask.cli import main
from galprep_dask.errors import GalprepWarning

__all__ = ["Done", "Terminal", "galprep", "write_field"]


class Done(NamedTuple):
    """What a command left: its exit status, and what it printed."""

    status: int
    out: str
    err: str


def galprep(*arguments, cwd, err=None) -> Done:
    """Run a command in a folder; warnings of the package are shown, as to a user, and others are errors."""
    out, err = io.StringIO(), err or io.StringIO()
    with (
        contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("always", GalprepWarning)
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    return Done(status, out.getvalue(), err.getvalue())


class Terminal(io.TextIOWrapper):
    """A terminal to write to; ``getvalue`` gives what it was sent."""

    def __init__(self):
        self._outer, inner = os.openpty()
        super().__init__(os.fdopen(inner, "wb", buffering=0), encoding="utf-8", write_through=True)
        self._sent = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while not self._sent.endswith(b"\0"):
            self._sent += os.read(self._outer, 65536)

    def getvalue(self):
        # An end of its own: processes that were started meanwhile may keep the terminal open.
        self.write("\0")
        self._reader.join(timeout=30)
        self.close()
        os.close(self._outer)
        return self._sent.decode().removesuffix("\0")


def write_field(folder, shape=(260, 280)):
    """A mosaic of stars and a galaxy in the middle, in several files, and tables of targets."""
    rng = np.random.default_rng(3)
    ny, nx = shape
    image = rng.normal(100, 1, shape) + np.linspace(0, 3, nx)
    for row in range(5):
        for column in range(5):
            x, y = 30 + column * (nx - 60) / 4 + rng.uniform(-3, 3), 30 + row * (ny - 60) / 4 + rng.uniform(-3, 3)
            if (row, column) != (2, 2):
                image += gaussian(shape, x, y, rng.uniform(5000, 2e4), 1.5)
    image += gaussian(shape, (nx - 1) / 2, (ny - 1) / 2, 2e4, 4, 2.5)
    header = tan_header(shape, BUNIT="adu/s", GAIN=2.0, EXPTIME=100.0, MAGZERO=27.0)
    image = image.astype("f4")
    for name in ("mosaic.fits", "mosaic_r.fits", "mosaic_k.fits"):
        fits.writeto(folder / name, image, header)
    tiled = fits.CompImageHDU(image, header, name="SCI", tile_shape=(64, 64))
    fits.HDUList([fits.PrimaryHDU(), tiled]).writeto(folder / "tile.fits.fz")
    Table({"name": ["middle", "../west"], "ra": [150.0, 150.008], "dec": [2.0, 2.004]}).write(folder / "targets.ecsv")
    cut = image[110:150, 120:160] - 101.5
    fits.writeto(folder / "image.fits", cut, tan_header(cut.shape, BUNIT="adu/s", GAIN=2.0, EXPTIME=100.0))
    fits.writeto(folder / "mask.fits", np.zeros(cut.shape, "u1"))
