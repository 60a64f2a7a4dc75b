"""Step 1: every parameter of ``sky_subtraction``."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fields import SCALE
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask.errors import (
    ImageShapeError,
    LittleSkyWarning,
    NoGoodPixelsError,
    OutputError,
    ParameterError,
    TooFewPixelsError,
)


def test_polynomial_is_subtracted_in_place_and_kept(field):
    path, flat, tilt = field
    img = IM.image(path)
    masked = img.sky_subtraction(order=1)
    sky = np.asarray(img.sky)
    assert np.abs(sky - tilt).max() < 0.1  # noise 1 over 48000 pixels
    original = fits.getdata(path)
    np.testing.assert_array_equal(img.data.data, (original - sky).astype("f4"))
    assert np.asarray(img.data.data).dtype == np.float32
    assert masked.shape == SHAPE
    assert masked.dtype == bool
    # Both galaxies are masked, far out, and the tilt is not taken for a source.
    y, x = 100, 120
    assert np.asarray(masked)[y - 6 : y + 7, x - 6 : x + 37].all(axis=0)[[2, 6, 36]].all()
    assert np.asarray(masked).mean() < 0.25  # 12 px of galaxy, and twice as much around it
    assert np.asarray(masked)[:30].mean() < 0.1
    assert fits.getdata(path).tobytes() == original.tobytes()


def test_order(field):
    residual = {}
    for order in (0, 1):
        img = IM.image(field[0])
        # Most of a slope looks like sources to a constant.
        with pytest.warns(LittleSkyWarning) if order == 0 else nullcontext():
            img.sky_subtraction(order=order)
        residual[order] = np.ptp(np.asarray(img.sky) - field[2])
    assert residual[0] > 90
    assert residual[1] < 0.2


def test_constant_skies_are_the_clipped_mean_and_median(field):
    from astropy.stats import sigma_clipped_stats

    rng = np.random.default_rng(5)
    pixels = rng.exponential(3.0, SHAPE).astype("f4")  # skewed: mean and median differ
    skies = {}
    for usemedian in (False, True):
        img = IM.image(pixels, pixel_scales=SCALE)
        masked = np.asarray(img.sky_subtraction(polyfit=False, usemedian=usemedian, sdmask=np.zeros(SHAPE, bool)))
        assert not masked.any()
        skies[usemedian] = float(img.sky[0, 0])
    mean, median, std = sigma_clipped_stats(pixels, sigma=3.0, maxiters=5)
    assert abs(skies[False] - mean) < 1e-5 * std
    assert abs(skies[True] - median) < 1e-5 * std


def test_sdmask_is_used_in_place_of_detection(field):
    sdmask = np.zeros(SHAPE, bool)
    sdmask[80:120, 90:180] = True
    img = IM.image(field[0])
    np.testing.assert_array_equal(img.sky_subtraction(sdmask=sdmask, order=1), sdmask)
    with pytest.raises(ImageShapeError, match=r"sdmask has shape \(3, 3\)"):
        img.sky_subtraction(sdmask=np.zeros((3, 3), bool))


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"nsigma": 20.0}, {"nsigma": 2.0}),
        ({"npixels": 500}, {"npixels": 5}),
        ({"max_grow_size": 0}, {"max_grow_size": 20}),
        ({"addgrow": 0}, {"addgrow": 6}),
        ({"psfFWHM": 0.8}, {"psfFWHM": 6.0}),
    ],
)
def test_detection_parameters_widen_the_mask(field, less, more):
    common = {"order": 1, "max_grow_size": 0}
    masks = [np.asarray(IM.image(field[0]).sky_subtraction(**(common | which))) for which in (less, more)]
    assert masks[0].sum() < masks[1].sum()


def test_fwhm_is_in_arcsec(field):
    """1.5 arcsec are 3 px here; at 0.25 arcsec per pixel 0.75 arcsec are the same 3 px."""
    half = IM.image(field[0], pixel_scales=SCALE / 2)
    np.testing.assert_array_equal(
        half.sky_subtraction(psfFWHM=0.75, order=1), IM.image(field[0]).sky_subtraction(psfFWHM=1.5, order=1)
    )


def test_filepath_gets_the_image_and_the_story(field, tmp_path):
    path = tmp_path / "subtracted.fits"
    path.write_bytes(b"an earlier run")
    img = IM.image(field[0])
    img.sky_subtraction(order=2, filepath=path, nsigma=2.5)
    with fits.open(path) as hdus:
        header = hdus[0].header
        np.testing.assert_array_equal(hdus[0].data, img.data.data)
        assert header["SKYMODEL"] == "polynomial"
        assert header["SKYORDER"] == 2
        assert "nsigma=2.5" in "".join(header["HISTORY"])
        assert json.loads(header["GPPARAM"])["sky_subtraction"]["nsigma"] == 2.5
        assert len(header["GPHASH"]) == 16
        np.testing.assert_allclose(WCS(header).all_world2pix(RA, DEC, 0), [120, 100], atol=1e-9)
    from galprep_dask.sky import PolynomialSky

    np.testing.assert_array_equal(PolynomialSky.from_header(header).evaluate(), img.sky)
    with pytest.raises(OutputError, match="no directory"):
        IM.image(field[0]).sky_subtraction(filepath=tmp_path / "missing" / "x.fits")


def test_all_pixels_bad():
    with pytest.raises(NoGoodPixelsError, match="masked or not finite"):
        IM.image(np.full((30, 30), np.nan, "f4"), pixel_scales=SCALE).sky_subtraction()


@pytest.mark.parametrize("polyfit", [True, False])
def test_usemedian_takes_the_median_whatever_polyfit_says(field, polyfit):
    img = IM.image(field[0])
    img.sky_subtraction(polyfit=polyfit, usemedian=True, sdmask=np.zeros(SHAPE, bool))
    assert img.sky_model.to_header()["SKYMODEL"] == "median"
    assert np.ptp(np.asarray(img.sky)) == 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("order", [-1, 1.5]),
        ("psfFWHM", [0, -1, np.nan, "2"]),
        ("nsigma", [np.nan, -1]),
        ("npixels", [0, 2.5]),
        ("max_grow_size", [-1, 1.5]),
        ("addgrow", [-1, np.nan]),
    ],
)
def test_values_that_make_no_sense(name, values):
    img = IM.image(np.random.default_rng(0).normal(size=(60, 60)), pixel_scales=SCALE)
    ours = {"npixels": "n_pixels"}.get(name, name)
    for value in values:
        with pytest.raises(ParameterError, match=f"{ours}="):
            img.sky_subtraction(**{name: value})
    assert img.sky is None


def test_masks_that_leave_no_sky_are_told_to_be_the_reason():
    pixels = np.random.default_rng(0).normal(size=(60, 60))
    pixels[25:35, 25:35] += 100.0
    img = IM.image(pixels, pixel_scales=SCALE)
    with pytest.raises(NoGoodPixelsError, match="a psfFWHM of 3 px.*addgrow=90 leave no sky between them"):
        img.sky_subtraction(psfFWHM=1.5, addgrow=90)


def test_no_file_is_left_where_the_sky_cannot_be_fitted(tmp_path):
    img = IM.image(np.ones((30, 30)), pixel_scales=SCALE)
    with pytest.raises(TooFewPixelsError):
        img.sky_subtraction(sdmask=np.arange(900).reshape(30, 30) > 5, filepath=tmp_path / "sky.fits")
    assert not list(tmp_path.iterdir())
