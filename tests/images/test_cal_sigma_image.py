"""Step 2: every parameter of ``cal_sigma_image``."""


import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from fields import two_galaxies
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask.errors import (
    ImageShapeError,
    ParameterError,
    SigmaWarning,
)


@pytest.mark.filterwarnings("ignore::galprep_dask.errors.SigmaWarning")  # for some values
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
    _, flat, tilt = field
    exposure = np.full(SHAPE, 50.0)
    exposure[:, 120:] = 100.0
    exposure[3, 4], exposure[5, 6] = 0.0, np.nan
    noise = np.where(exposure == 100.0, np.sqrt(0.5), 1.0)  # that of the sky goes with the exposure
    galaxies = two_galaxies(SHAPE, noise=0.0)[0]
    img = IM.image(galaxies + noise * (flat - galaxies) + tilt)
    img.sky_subtraction(order=1, sdmask=galaxies > 0.01)
    sigma = np.asarray(img.cal_sigma_image(exposure, gain=2.0)).astype(float)
    with np.errstate(divide="ignore"):
        source = np.where(exposure > 0, np.maximum(np.asarray(img.data.data, float), 0) / (2.0 * exposure), 0)
    unusable = ~(exposure > 0)
    np.testing.assert_allclose(np.sqrt(sigma**2 - source)[~unusable], noise[~unusable], rtol=0.02)
    assert img.sigma_check.ratio == pytest.approx(1.0, abs=0.02)
    assert (np.isfinite(sigma) & (sigma > 0)).all()
    assert np.asarray(img.data.mask)[unusable].all()
    assert np.asarray(img.data.mask).sum() == 2
    with pytest.raises(ImageShapeError, match="exptime"):
        img.cal_sigma_image(exposure[:5])


def test_sigma_is_compared_with_the_noise_and_the_file_says_so(flat, tmp_path, caplog):
    img = IM.image(flat)
    img.sky_subtraction(order=1)
    with caplog.at_level("INFO"):
        img.cal_sigma_image(40.0, gain=2.0)
    assert img.sigma_check.ratio == pytest.approx(1.0, abs=0.02)
    assert "std of data / sigma" in caplog.text
    img.img_cut(RA, DEC, 20.0)
    img.write_imcut(RA, DEC, tmp_path / "cut.fits")
    header = fits.getheader(tmp_path / "cut.fits")
    assert header["SIGCHK"] == img.sigma_check.ratio
    assert header["SIGCHKN"] == img.sigma_check.n_pixels
    assert "SIGSCL" not in header

    # A sigma image that was changed by hand is measured for itself.
    img.cut_sigma_image = 2 * img.cut_sigma_image
    with pytest.warns(SigmaWarning, match="off by a factor of 0.5"):
        img.write_imcut(RA, DEC, tmp_path / "cut.fits")
    assert fits.getheader(tmp_path / "cut.fits")["SIGCHK"] == pytest.approx(0.5, abs=0.03)


def test_cutout_without_a_source_free_pixel_has_no_check_of_its_own(flat, tmp_path):
    img = IM.image(flat)
    img.cal_sigma_image(40.0, gain=2.0)
    img.source_mask = np.ones(SHAPE, bool)
    img.img_cut(RA, DEC, 20.0)
    img.cut_sigma_image = 2 * img.cut_sigma_image
    img.write_imcut(RA, DEC, tmp_path / "cut.fits")
    assert "SIGCHK" not in fits.getheader(tmp_path / "cut.fits")


def test_sigma_far_off_the_noise_is_warned_about_unless_it_was_asked_for(flat):
    img = IM.image(flat)
    with pytest.warns(SigmaWarning, match="check its unit, gain and exposure"):
        img.cal_sigma_image(1.0, gain=0.1)
    assert img.sigma_check.ratio < 0.8
    img.cal_sigma_image(40.0, gain=2.0, fac2=4.0)
    assert img.sigma_check.ratio == pytest.approx(0.5, abs=0.02)


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
