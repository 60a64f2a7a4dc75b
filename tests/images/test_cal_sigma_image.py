"""Step 2: every parameter of ``cal_sigma_image``."""


import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from target_field import SHAPE

from galprep_dask import images as IM
from galprep_dask.errors import (
    ImageShapeError,
    ParameterError,
)


def test_sigma_image_follows_the_formula_and_each_parameter(flat):
    pixels = fits.getdata(flat).astype(float)
    img = IM.image(flat)
    img.sky_subtraction(polyfit=False, sdmask=np.abs(pixels) > 4)
    img.data.data = da.from_array(pixels.astype("f4"))
    base = img.cal_sigma_image(1.0)
    assert isinstance(base, da.Array)
    noise = float(base.min())
    assert noise == pytest.approx(1.0, abs=0.02)

    def expected(expo, gain, fac1, fac2):
        return np.sqrt(fac1 * np.maximum(pixels, 0) / (gain * expo) + fac2 * noise**2)

    for changed in ({}, {"expo": 30.0}, {"gain": 4.0}, {"fac1": 2.0}, {"fac2": 3.0}):
        values = {"expo": 1.0, "gain": 1.0, "fac1": 1.0, "fac2": 1.0} | changed
        np.testing.assert_allclose(img.cal_sigma_image(**values), expected(**values), rtol=2e-6)


def test_sigma_image_takes_an_exposure_map_and_leaves_sources_out_of_the_noise(field):
    img = IM.image(field[0])
    img.sky_subtraction(order=1)
    exposure = np.full(SHAPE, 50.0)
    exposure[:, 120:] = 100.0
    sigma = np.asarray(img.cal_sigma_image(exposure, gain=2.0))
    source = np.maximum(np.asarray(img.data.data, float), 0) / (2.0 * exposure)
    noise2 = sigma.astype(float) ** 2 - source
    np.testing.assert_allclose(np.sqrt(noise2), 1.0, atol=0.02)
    with pytest.raises(ImageShapeError, match="exptime"):
        img.cal_sigma_image(exposure[:5])


@pytest.mark.parametrize("wrong", [{"expo": 0}, {"expo": np.nan}, {"gain": 0}, {"gain": -2}, {"fac2": 0}, {"fac1": -1}])
def test_sigma_image_refuses_what_has_no_noise(flat, wrong):
    with pytest.raises(ParameterError, match=r"expected .*positive"):
        IM.image(flat).cal_sigma_image(**({"expo": 1.0} | wrong))


@pytest.mark.parametrize("gain", [0, -1.0, np.nan, np.inf, None, "high"])
def test_gain_that_is_none_is_told_to_be(flat, gain):
    img = IM.image(flat)
    with pytest.raises(ParameterError, match="gain="):
        img.cal_sigma_image(1.0, gain=gain)
    assert img.sigma_image is None
