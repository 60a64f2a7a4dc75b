import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.stats import SigmaClip
from photutils.segmentation import detect_threshold as photutils_threshold

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError
from galprep_dask.segmentation import detect_threshold

IMAGE = np.random.default_rng(4).standard_t(3, (60, 70)) + 20
RMS = np.random.default_rng(5).uniform(1, 2, IMAGE.shape)


def test_is_that_of_photutils():
    mask = IMAGE > 22
    for sigma, maxiters in ((3.0, 10), (2.0, 10), (3.0, 1)):
        clip = SigmaClip(sigma=sigma, maxiters=maxiters)
        for n_sigma in (2.5, -1.0):
            for planes in ({}, {"background": 0.0}, {"error": 2.0}, {"background": 19.0, "error": 0.5}):
                expected = photutils_threshold(IMAGE, n_sigma, mask=mask, sigma_clip=clip, **planes)
                found = detect_threshold(IMAGE, n_sigma, mask=mask, sigma_clip=sigma, maxiters=maxiters, **planes)
                assert isinstance(found, float)
                np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_without_clipping():
    assert detect_threshold(IMAGE, 2.0, sigma_clip=None) == pytest.approx(IMAGE.mean() + 2 * IMAGE.std(), rel=1e-12)


def test_images_of_background_and_error_are_lazy(no_compute):
    lazy = da.from_array(IMAGE, chunks=25)
    for planes in ({"background": IMAGE, "error": RMS}, {"background": 1.0, "error": RMS}):
        expected = photutils_threshold(IMAGE, 3.0, **planes)
        with no_compute():
            found = detect_threshold(lazy, 3.0, **planes)
            assert isinstance(found, da.Array)
            assert found.chunks == lazy.chunks
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(detect_threshold(IMAGE, 3.0, **planes), expected)
        named = detect_threshold(xr.DataArray(lazy, dims=("y", "x")), 3.0, **planes)
        assert named.dims == ("y", "x")
    found = detect_threshold(IMAGE, 3.0, error=RMS)
    np.testing.assert_allclose(found, photutils_threshold(IMAGE, 3.0, error=RMS), rtol=1e-12)


def test_nothing_is_read_where_nothing_is_to_be_found_out(no_compute):
    with no_compute():
        assert detect_threshold(da.ones((5, 5)), 3.0, background=1.0, error=2.0) == 7.0


def test_values_under_the_mask_do_not_count():
    mask = IMAGE > 22
    expected = detect_threshold(IMAGE, 3, mask=mask)
    for hidden in (0.0, 1e30, np.nan):
        assert detect_threshold(np.where(mask, hidden, IMAGE), 3, mask=mask) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = photutils_threshold(np.where(mask, np.nan, IMAGE), 3.0)
    np.testing.assert_allclose(detect_threshold(np.where(mask, np.nan, IMAGE), 3.0), expected, rtol=1e-12)


def test_units_are_those_of_photutils():
    image, rms = IMAGE << u.Jy, RMS << u.Jy
    for planes in ({}, {"background": 0 * u.Jy}, {"error": 2 * u.Jy}, {"background": 19 * u.Jy, "error": 1 * u.Jy},
                   {"error": rms}, {"background": image, "error": 0.5 * u.Jy}):  # fmt: skip
        expected = photutils_threshold(image, 2.0, **planes)
        found = detect_threshold(image, 2.0, **planes)
        assert isinstance(found, u.Quantity)
        assert found.unit == expected.unit == u.Jy
        np.testing.assert_allclose(np.broadcast_to(found.value, IMAGE.shape), expected.value, rtol=1e-12)
    for data, planes in ((image, {"error": 2.0}), (IMAGE, {"error": rms}), (image, {"background": 1 * u.mJy}),
                         (image, {"background": 0.0}), (IMAGE, {"background": 0.0, "error": rms})):  # fmt: skip
        with pytest.raises(ValueError, match="same units"):
            photutils_threshold(data, 2.0, **planes)
        with pytest.raises(ParameterError, match=r"data has .* expected one unit for all"):
            detect_threshold(data, 2.0, **planes)


def test_errors():
    for n_sigma in (np.nan, np.inf):
        with pytest.raises(ParameterError, match="n_sigma"):
            detect_threshold(IMAGE, n_sigma)
    with pytest.raises(NoGoodPixelsError):
        detect_threshold(IMAGE * np.nan, 3)
    for name in ("background", "error"):
        with pytest.raises(ImageShapeError, match=f"{name} has shape"):
            detect_threshold(IMAGE, 3, **{name: IMAGE.T})
