import numpy as np
import pytest
from astropy.io import fits
from fields import SCALE, gaussian, tan_header, two_galaxies
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM

KEYWORDS = {"GAIN": 2.0, "EXPTIME": 50.0, "MAGZERO": 25.5, "BUNIT": "adu"}


@pytest.fixture
def field(tmp_path):
    """A file with a tilted sky, two galaxies, and the pixels without the sky."""
    flat, _, _ = two_galaxies(SHAPE)
    tilt = np.add.outer(np.linspace(0, 40, SHAPE[0]), np.linspace(100, 160, SHAPE[1]))
    path = tmp_path / "field.fits"
    fits.writeto(path, (flat + tilt).astype("f4"), tan_header(SHAPE, **KEYWORDS))
    return path, flat, tilt


@pytest.fixture
def flat(tmp_path):
    """The same without a sky."""
    pixels, _, _ = two_galaxies(SHAPE)
    path = tmp_path / "flat.fits"
    fits.writeto(path, pixels, tan_header(SHAPE, **KEYWORDS))
    return path


@pytest.fixture
def cut(flat):
    """A cutout of 61 x 61 pixels around the target, neighbour included, with its sigma image."""
    img = IM.image(flat)
    img.cal_sigma_image(1.0)
    img.img_cut(RA, DEC, 30 * SCALE)
    return img


@pytest.fixture
def blend():
    """A target and a neighbour that touch."""
    shape = (81, 81)
    pixels = np.random.default_rng(1).normal(0, 1.0, shape) + gaussian(shape, 40, 40, 30000, 4.0)
    pixels = (pixels + gaussian(shape, 54, 40, 20000, 3.0)).astype("f4")
    img = IM.image(pixels, pixel_scales=SCALE)
    img.img_cut(0, 0, 20.0, referpix=(40, 40))
    return img


class Counting:
    """An array that notes which regions of it are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.read = []

    def __getitem__(self, region):
        self.read.append(region)
        return self.array[region]


@pytest.fixture
def counting():
    """Make an array that notes in ``read`` which regions of it are read."""
    return Counting
