"""``ds.galprep`` forwards to the rooms, with the planes and the metadata of the image filled in."""

import inspect

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from fields import SCALE, tan_header, two_galaxies
from star_fields import detected, simulate_stars

from galprep_dask import cutouts, make_image, noise, open_image, psf, segmentation, sky, stats
from galprep_dask.accessor import GalprepAccessor
from galprep_dask.errors import MissingExptimeError, MissingGainError, MissingWCSError, ParameterError

SHAPE = (201, 241)


@pytest.fixture
def image():
    pixels, _, _ = two_galaxies(SHAPE, sky=50.0)
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 30:50] = True
    pixels[mask] = 1e6
    pixels[0, 0] = np.nan
    return make_image(
        pixels, mask=mask, header=tan_header(SHAPE), gain=2.0, exptime=40.0, unit="adu / s", chunks=(64, 100)
    )


def test_coordinates(image):
    assert image.galprep.shape == SHAPE
    assert image.galprep.pixel_scale == pytest.approx(SCALE, rel=1e-9)
    assert isinstance(image.galprep.header, fits.Header)
    assert isinstance(image.galprep.wcs, WCS)
    assert image.galprep.wcs is not image.galprep.wcs
    np.testing.assert_allclose(image.galprep.wcs.all_world2pix(150.0, 2.0, 0), [120, 100], atol=1e-9)
    image.galprep.header["CRVAL1"] = 0.0
    assert image.galprep.header["CRVAL1"] == 150.0
    with pytest.raises(MissingWCSError, match="the image has no celestial WCS"):
        _ = make_image(np.ones((3, 4))).galprep.wcs


def test_bad_pixels_are_the_mask_and_what_is_not_finite(image):
    expected = image["mask"].values.copy()
    expected[0, 0] = True
    np.testing.assert_array_equal(image.galprep.bad_pixels, expected)


def test_own_mask_is_used_unless_another_is_given(image):
    data, mask = image["data"], image["mask"]
    assert image.galprep.sigma_clipped_stats() == stats.sigma_clipped_stats(data, mask)
    other = ~mask
    assert image.galprep.sigma_clipped_stats(other) == stats.sigma_clipped_stats(data, other)
    assert image.galprep.fit_median_sky().level == sky.fit_median_sky(data, mask).level
    np.testing.assert_array_equal(
        image.galprep.fit_polynomial_sky(2).coefficients, sky.fit_polynomial_sky(data, mask, 2).coefficients
    )
    np.testing.assert_array_equal(
        image.galprep.fit_mesh_sky(box_size=50).mesh, sky.fit_mesh_sky(data, mask, box_size=50).mesh
    )
    np.testing.assert_array_equal(image.galprep.source_mask(fwhm=3.0), sky.source_mask(data, mask, fwhm=3.0))
    np.testing.assert_array_equal(
        image.galprep.detect_sources(60.0).data, segmentation.detect_sources(data, 60.0, mask=mask).data
    )


def test_subtract_sky_is_lazy_and_says_what_was_done(image, no_compute):
    model = image.galprep.fit_polynomial_sky(1)
    with no_compute():
        subtracted = image.galprep.subtract_sky(model)
    assert isinstance(subtracted, xr.Dataset)
    assert subtracted["data"].dtype == image["data"].dtype
    expected = (image["data"].values - model.evaluate().compute()).astype("f4")
    np.testing.assert_array_equal(subtracted["data"], expected)
    assert subtracted.galprep.header["SKYORDER"] == 1
    assert "SKYORDER" not in image.galprep.header
    np.testing.assert_array_equal(subtracted["mask"], image["mask"])


def test_gain_and_exposure_are_those_of_the_image(image):
    expected = noise.sigma_image(image["data"], image["mask"], sky_std=1.0, gain=2.0, exptime=40.0)
    np.testing.assert_array_equal(image.galprep.sigma_image(sky_std=1.0), expected)
    other = noise.sigma_image(image["data"], image["mask"], sky_std=1.0, gain=3.0, exptime=1.0, fac1=2.0)
    np.testing.assert_array_equal(image.galprep.sigma_image(sky_std=1.0, gain=3.0, exptime=1.0, fac1=2.0), other)


def test_what_is_not_known_is_an_error_that_names_argument_and_keywords(tmp_path):
    fits.writeto(tmp_path / "bare.fits", np.ones((5, 5), "f4"))
    image = open_image(tmp_path / "bare.fits")
    named = r"no gain for '.*bare.fits' \[HDU 0\]: looked for GAIN, EGAIN, CELL.GAIN"
    with pytest.raises(MissingGainError, match=named):
        image.galprep.sigma_image(sky_std=1.0)
    with pytest.raises(MissingExptimeError, match=r"no exptime for .*EXPTIME, TEXPTIME.*Pass exptime= in s"):
        image.galprep.sigma_image(sky_std=1.0, gain=1.0)


def test_cutout_and_write(image, tmp_path):
    np.testing.assert_array_equal(
        image.galprep.cutout(150.0, 2.0, 21)["data"], cutouts.cutout(image, 150.0, 2.0, 21)["data"]
    )
    path = image.galprep.write(tmp_path / "image.fits")
    np.testing.assert_array_equal(fits.getdata(path), image["data"])


def test_many_cutouts_and_stamps(image):
    ra, dec = image.galprep.wcs.all_pix2world([120.0, -50.0], [100.0, 10.0], 0)
    found, table = image.galprep.cutout_many(ra, dec, 21)
    np.testing.assert_array_equal(found[0]["data"], image["data"].values[90:111, 110:131])
    assert (found[1], table["cut"].tolist()) == (None, [True, False])
    assert image.galprep.cutout_many(ra, dec, 21, sink=lambda k, cut: k)[0] == [0, None]
    stamps = image.galprep.extract_stamps([35.0], [15.0], 5, plane="mask")
    np.testing.assert_array_equal(stamps, image["mask"].values[None, 13:18, 33:38])
    np.testing.assert_array_equal(
        image.galprep.extract_stamps([35.0], [15.0], 5), image["data"].values[None, 13:18, 33:38]
    )
    with pytest.raises(ParameterError, match="plane='sigma'; the image has data, mask"):
        image.galprep.extract_stamps([35.0], [15.0], 5, plane="sigma")


def test_stars_are_chosen_with_the_planes_and_the_header_of_the_image():
    field = simulate_stars((420, 400), 40, seed=5, fwhm=3.0)
    mask = np.zeros(field.image.shape, bool)
    mask[100:105, :] = True
    header = tan_header(field.image.shape, SATURATE=0.5 * field.saturate)
    image = make_image(field.image, mask=mask, header=header, chunks=(150, 170))
    found = detected(field.image)
    stars = image.galprep.select_stars(found)
    expected = psf.select_stars(field.image, found, mask=mask, header=header)
    assert {"ra", "dec"} <= set(stars.colnames)
    assert stars.meta["saturate"] == 0.5 * field.saturate
    np.testing.assert_array_equal(stars["reason"], expected["reason"])
    with_sigma = image.assign(sigma=(("y", "x"), np.full(field.image.shape, 0.8)))
    np.testing.assert_array_equal(
        with_sigma.galprep.select_stars(found)["snr"],
        psf.select_stars(field.image, found, mask=mask, sigma=with_sigma["sigma"], header=header)["snr"],
    )
    np.testing.assert_array_equal(
        with_sigma.galprep.select_stars(found, sky_std=1.0)["reason"],
        psf.select_stars(field.image, found, mask=mask, header=header, sky_std=1.0)["reason"],
    )


def test_every_public_method_is_documented():
    for name, member in inspect.getmembers(GalprepAccessor):
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
