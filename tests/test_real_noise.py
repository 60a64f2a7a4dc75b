"""Sigma images of real fields: ours agrees with the noise, and those of other teams are what they are."""

import numpy as np
import pytest
from astropy.io import fits

import galprep_dask as gp
from galprep_dask import noise, sky
from galprep_dask.errors import SigmaWarning

pytestmark = pytest.mark.shared_data

XDF = "hst_xdf_f160w/xdf_hst_wfc3ir_60mas_f160w_{}.fits"


def pixels(folder, path, hdu=0):
    return fits.getdata(folder / path, hdu).astype("f8")


def prepared(folder, path, hdu, fwhm):
    """Pixels minus their median, and the mask of the sources."""
    data = pixels(folder, path, hdu)
    masked = sky.source_mask(data, fwhm=fwhm, max_grow_size=30)
    return data - sky.fit_median_sky(data, masked).level, masked


@pytest.mark.parametrize("name", ["image_1", "image_8"])
def test_detector_whose_noise_varies_is_calibrated_everywhere_with_a_mesh(name, shared_data):
    image = gp.open_image(shared_data / "vircam_h" / f"{name}.fits", chunks=1024).persist()
    data = image["data"]
    masked = sky.source_mask(data, fwhm=2.8, max_grow_size=30).persist()
    level = sky.fit_median_sky(data, masked).level
    image = image.assign(data=data - level)

    one_number = image.galprep.with_sigma(masked, fac1=0).galprep.header
    assert one_number["SIGCHK"] == pytest.approx(1.0, abs=0.01)
    assert one_number["SIGCHKLO"] < 0.95  # the noise of the detector is not the same in all of its parts
    assert one_number["SIGCHKHI"] > 1.05

    mesh = sky.fit_mesh_sky(image["data"], masked, box_size=128, sigma_clip=5.0, exclude_percentile=90)
    rms = mesh.rms_image(chunks=image["data"].data.chunks)
    with_mesh = image.galprep.with_sigma(masked, rms=rms, fac1=0).galprep.header
    assert with_mesh["SIGCHK"] == pytest.approx(1.0, abs=0.02)
    assert with_mesh["SIGCHKLO"] > 0.97
    assert with_mesh["SIGCHKHI"] < 1.03

    # Light that electrons of the header's gain make of noise that is high by chance.
    electrons = image.attrs["gain"] * one_number["SIGSKY"]
    own_gain = image.galprep.with_sigma(masked, exptime=1.0).galprep.header
    assert own_gain["SIGCHK"] == pytest.approx(1 - 0.4 / electrons, abs=0.04)


def test_rms_map_of_a_drizzled_image_is_that_of_its_correlated_noise(shared_data):
    data, masked = prepared(shared_data, XDF.format("sci"), 0, 2.8)
    rms = pixels(shared_data, XDF.format("rms"))
    std = noise.measure_sky_std(data, masked)
    ours = noise.sigma_image(data, sky_std=std, gain=1.0, exptime=330624.39)
    assert noise.check_sigma(data, ours, masked).ratio == pytest.approx(1.0, abs=0.02)
    with pytest.warns(SigmaWarning, match="off by a factor of 0.4"):
        theirs = noise.check_sigma(data, rms, masked)
    factor = noise.correlation_factor(data, masked, block_size=6)
    assert 1.5 < factor < 3
    assert theirs.ratio * factor == pytest.approx(1.0, abs=0.2)
    noise.check_sigma(data, rms, masked, expected=1 / factor)  # no warning
    assert noise.calibrate_sigma(data, rms, masked)[1].scale == pytest.approx(theirs.ratio)


def test_sigma_map_of_another_team_agrees_with_the_noise_and_with_ours(shared_data):
    folder = "kids_g279148/G279148{}.fits"
    data, masked = prepared(shared_data, folder.format("fitim"), 0, 3.5)
    theirs = pixels(shared_data, folder.format("sigma"))
    masked |= pixels(shared_data, folder.format("segim")) > 0
    std = noise.measure_sky_std(data, masked)
    assert std == pytest.approx(np.median(theirs[~masked]), rel=0.05)
    checks = [noise.check_sigma(data, sigma, masked) for sigma in (np.full(data.shape, std), theirs)]
    assert checks[0].ratio == pytest.approx(1.0, abs=0.01)
    assert checks[1].ratio == pytest.approx(1.0, abs=0.05)
    # With the gain that their map implies, ours is theirs: units of 1e-12 are no obstacle.
    bright = data > 20 * std
    gain = np.median(data[bright] / (theirs[bright] ** 2 - std**2))
    ours = noise.sigma_image(data, sky_std=std, gain=gain)
    assert np.mean(np.abs(ours / theirs - 1)[bright] < 0.1) > 0.95
    assert noise.check_sigma(data, ours, masked).ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("data", "sigma", "fwhm", "expected"),
    [
        (("jwst_egs_40/f200w.fits", 0), ("jwst_egs_40/f200w_err.fits", 0), 3.3, 1.05),
        (("jwst_egs_40/f444w.fits", 0), ("jwst_egs_40/f444w_err.fits", 0), 3.6, 1.06),
        (("galfits_j0056/sdssr_cut.fits", 0), ("galfits_j0056/sdssr_cut.fits", 2), 3.0, 1.6),
        (("galfits_j0056/tmassJ_cut.fits", 0), ("galfits_j0056/tmassJ_cut.fits", 2), 3.0, 0.057),
        (("galfits_j0056/galexnuv_cut.fits", 0), ("galfits_j0056/galexnuv_cut.fits", 2), 3.5, 5.5),
    ],
)
def test_examples_of_a_fitting_code_are_off_and_can_be_put_right(data, sigma, fwhm, expected, shared_data):
    data, sigma = pixels(shared_data, *data), pixels(shared_data, *sigma)
    if len(data) > 20:
        (model, masked), clip = sky.fit_sky_between_sources(data, fit=sky.fit_median_sky, fwhm=fwhm), 5.0
    else:  # too small for a mask that leaves anything
        model, masked, clip = sky.fit_median_sky(data), None, 3.0
    data = sky.subtract_sky(data, model)
    found = noise.check_sigma(data, sigma, masked, sigma_clip=clip, expected=None)
    assert found.ratio == pytest.approx(expected, rel=0.1)
    right, check = noise.calibrate_sigma(data, sigma, masked, sigma_clip=clip)
    assert check.scale == pytest.approx(found.ratio, rel=1e-12)
    assert noise.check_sigma(data, right, masked, sigma_clip=clip).ratio == pytest.approx(1.0, rel=1e-6)
