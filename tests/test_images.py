"""The GalfitS-named class: every parameter does what the documentation says of it."""

import inspect
import logging

import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from fields import SCALE, gaussian, tan_header, two_galaxies

from galprep_dask import images as IM
from galprep_dask.errors import (
    EdgeWarning,
    HDUError,
    HDUFallbackWarning,
    ImageNotFoundError,
    ImageShapeError,
    MissingWCSError,
    NoGoodPixelsError,
    OutputError,
    ParameterError,
    SigmaWarning,
    TargetOutsideError,
)

SHAPE = (201, 241)
RA, DEC = 150.0, 2.0  # the middle of the field


@pytest.fixture
def field(tmp_path):
    """A file with a tilted sky, two galaxies, and the pixels without the sky."""
    flat, _, _ = two_galaxies(SHAPE)
    tilt = np.add.outer(np.linspace(0, 40, SHAPE[0]), np.linspace(100, 160, SHAPE[1]))
    path = tmp_path / "field.fits"
    header = tan_header(SHAPE, GAIN=2.0, EXPTIME=50.0, MAGZERO=25.5, BUNIT="adu")
    fits.writeto(path, (flat + tilt).astype("f4"), header)
    return path, flat, tilt


@pytest.fixture
def flat(tmp_path):
    """The same without a sky."""
    pixels, _, _ = two_galaxies(SHAPE)
    path = tmp_path / "flat.fits"
    fits.writeto(path, pixels, tan_header(SHAPE, GAIN=2.0, EXPTIME=50.0, MAGZERO=25.5, BUNIT="adu"))
    return path


@pytest.fixture
def cut(flat):
    """A cutout of 61 x 61 pixels around the target, neighbour included, with its sigma image."""
    img = IM.image(flat)
    img.cal_sigma_image(1.0)
    img.img_cut(RA, DEC, 30 * SCALE)
    return img


# Signatures -----------------------------------------------------------------------------------------------

DOCUMENTED = {
    "__init__": "filename=None, hdu=0, phys_to_image=None, unit=None, zero_point=None, pixel_scales=None, "
    "wcs_rotation=None, mask=None, verbose=True, psfFWHM_map=None",
    "sky_subtraction": "sdmask=None, polyfit=True, order=3, filepath=None, psfFWHM=1.5, nsigma=3.0, npixels=5, "
    "max_grow_size=100, addgrow=0, usemedian=False",
    "img_cut": "ra, dec, cutsize, cutposition=None, IFS=False, usemaxpix=False, sigma_clipped=True, referpix=None, "
    "zoomsize=100, spcorrection=(0.0, 0.0)",
    "cal_sigma_image": "expo, gain=1.0, fac1=1.0, fac2=1.0",
    "generate_cutmask": "psfFWHM, data=None, sdmask=None, nsigma=3.0, magnification=3.0, npixels=5, nlevels=32, "
    "contrast=0.001, deblend=False, sky_level=None, source_dia=0.5, max_grow_size=100, growmethod=True, "
    "nearbygrow=0, addgrow=0, left_source=True",
    "write_imcut": "ra, dec, outputname, header=None, addpixsc=False, addmodel=False",
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_signature_is_the_documented_one(name):
    parameters = list(inspect.signature(getattr(IM.image, name)).parameters.values())[1:]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert ", ".join(str(p) for p in plain) == DOCUMENTED[name]


# image ----------------------------------------------------------------------------------------------------


def test_data_is_ccddata_like_and_lazy(field, no_compute):
    with no_compute():
        img = IM.image(field[0])
        assert isinstance(img.data, CCDData)
        assert isinstance(img.data.data, da.Array)
        assert isinstance(img.data.mask, da.Array)
    assert img.data.unit == u.adu
    assert img.data.header["GAIN"] == 2.0
    np.testing.assert_allclose(img.data.wcs.all_world2pix(RA, DEC, 0), [120, 100], atol=1e-9)
    np.testing.assert_array_equal(img.data.data, fits.getdata(field[0]))


def test_hdu(tmp_path):
    path = tmp_path / "three.fits"
    planes = [np.full((4, 5), n, "f4") for n in range(3)]
    extensions = [fits.ImageHDU(plane, name=f"P{n}") for n, plane in enumerate(planes[1:], start=1)]
    fits.HDUList([fits.PrimaryHDU(planes[0]), *extensions]).writeto(path)
    assert [float(IM.image(path, hdu=hdu).data.data[0, 0]) for hdu in (0, 1, "P2")] == [0, 1, 2]
    with pytest.raises(HDUError, match="has no HDU 7"):
        IM.image(path, hdu=7)


def test_hdu_0_that_is_empty_gives_way_with_a_warning(tmp_path):
    path = tmp_path / "extension.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((4, 5)))]).writeto(path)
    with pytest.warns(HDUFallbackWarning, match="HDU 1 is used"):
        assert IM.image(path).data.data.shape == (4, 5)


def test_unit_is_taken_in_place_of_bunit_and_need_not_be_one_that_astropy_knows(field):
    assert IM.image(field[0], unit="cR").data.unit == u.Unit("cR")
    assert str(IM.image(field[0], unit="DN/pixel/blip").data.unit) == "DN/pixel/blip"


@pytest.mark.filterwarnings("ignore::galprep_dask.errors.SigmaWarning")  # its sky is not subtracted
def test_zero_point_and_phys_to_image_are_written(field, tmp_path):
    for given, expected in ((None, 25.5), (30.0, 30.0)):
        img = IM.image(field[0], zero_point=given, phys_to_image=2.12e18)
        assert img.zero_point == expected
        img.cal_sigma_image(1.0)
        img.img_cut(RA, DEC, 5.0)
        img.write_imcut(RA, DEC, tmp_path / "cut.fits")
        header = fits.getheader(tmp_path / "cut.fits")
        assert header["MAGZERO"] == expected
        assert header["PHYS2IM"] == 2.12e18


def test_pixel_scales_takes_the_place_of_the_wcs_scale(field):
    assert IM.image(field[0]).img_cut(RA, DEC, 10.0)[0].shape == (41, 41)
    assert IM.image(field[0], pixel_scales=1.0).img_cut(RA, DEC, 10.0)[0].shape == (21, 21)


def test_pixel_scales_and_rotation_serve_where_there_is_no_wcs():
    img = IM.image(np.ones((50, 60), "f4"), pixel_scales=0.5, wcs_rotation=90.0)
    _, cp = img.img_cut(0, 0, 5.0, referpix=(30, 20))
    assert cp == [20, 41, 10, 31]
    # North along +x, east along +y: two pixels to the arcsec.
    np.testing.assert_allclose(img.coordinates_transfer_para["matrix"], [[0, 2], [2, 0]], atol=1e-12)
    with pytest.raises(MissingWCSError, match="pixel_scales"):
        IM.image(np.ones((50, 60), "f4")).img_cut(0, 0, 5.0, referpix=(30, 20))


def test_rotation_parameter_has_the_sense_of_the_wcs():
    for rotation in (0.0, 30.0):
        header = tan_header(SHAPE, rotation=rotation)
        with_wcs = IM.image(CCDData(np.ones(SHAPE), unit="adu", wcs=WCS(header)))
        with_wcs.img_cut(RA, DEC, 5.0)
        matrix = with_wcs.coordinates_transfer_para["matrix"]
        north_angle = np.degrees(np.arctan2(matrix[0, 1], matrix[1, 1]))
        without = IM.image(np.ones(SHAPE), pixel_scales=SCALE, wcs_rotation=north_angle)
        without.img_cut(0, 0, 5.0, referpix=(120, 100))
        np.testing.assert_allclose(without.coordinates_transfer_para["matrix"], matrix, atol=1e-5)


def test_mask_is_bad_everywhere(field):
    mask = np.zeros(SHAPE, bool)
    mask[95:105, 100:110] = True
    clean = IM.image(field[0], mask=mask)
    pixels = fits.getdata(field[0])
    pixels[mask] = 1e30
    dirty = IM.image(pixels, mask=mask, pixel_scales=SCALE)
    for img in (clean, dirty):
        img.data.header.update(tan_header(SHAPE))
    masks = [np.asarray(img.sky_subtraction(order=1)) for img in (clean, dirty)]
    np.testing.assert_array_equal(*masks)
    assert masks[0][mask].all()
    np.testing.assert_array_equal(clean.sky_model.coefficients, dirty.sky_model.coefficients)
    sigmas = [np.asarray(img.cal_sigma_image(1.0))[~mask] for img in (clean, dirty)]
    np.testing.assert_array_equal(*sigmas)
    for img in (clean, dirty):
        img.img_cut(RA, DEC, 15.0)
    assert clean.sky_median == dirty.sky_median
    cuts = [img.generate_cutmask(1.5) for img in (clean, dirty)]
    np.testing.assert_array_equal(*cuts)


def test_verbose_logs_what_was_found(field, caplog):
    caplog.set_level(logging.INFO, logger="galprep_dask.images")
    IM.image(field[0], verbose=False).sky_subtraction(order=1)
    assert not caplog.records
    IM.image(field[0], verbose=True).sky_subtraction(order=1)
    assert "PolynomialSky fitted to" in caplog.text
    assert "field.fits' [HDU 0]" in caplog.text


def test_psf_fwhm_map_serves_where_no_fwhm_is_passed(field):
    img = IM.image(field[0], psfFWHM_map=1.5)
    np.testing.assert_array_equal(
        img.sky_subtraction(psfFWHM=None, order=1), IM.image(field[0]).sky_subtraction(psfFWHM=1.5, order=1)
    )
    with pytest.raises(ParameterError, match="psfFWHM=None"):
        IM.image(field[0]).sky_subtraction(psfFWHM=None)


@pytest.mark.parametrize("kind", ["dask", "ccddata", "dataset"])
def test_lazy_and_in_memory_sources_give_the_same(kind, field):
    from galprep_dask import open_image

    pixels, header = fits.getdata(field[0]), fits.getheader(field[0])
    source = {
        "dask": lambda: open_image(da.from_array(pixels, chunks=(37, 61)), header=header),
        "ccddata": lambda: CCDData(pixels, unit="adu", wcs=WCS(header)),
        "dataset": lambda: open_image(field[0], chunks=(50, 240)),
    }[kind]()
    img, reference = IM.image(source), IM.image(field[0])
    np.testing.assert_array_equal(img.sky_subtraction(order=1), reference.sky_subtraction(order=1))
    np.testing.assert_allclose(img.data.data, reference.data.data, atol=1e-4)
    assert img.img_cut(RA, DEC, 10.0)[1] == reference.img_cut(RA, DEC, 10.0)[1]


def test_bad_sources():
    with pytest.raises(ParameterError, match="filename=None"):
        IM.image()
    with pytest.raises(ImageNotFoundError, match="nowhere.fits"):
        IM.image("nowhere.fits")
    with pytest.raises(ParameterError, match="pixel_scales=-1"):
        IM.image(np.ones((4, 4)), pixel_scales=-1)


# sky_subtraction ------------------------------------------------------------------------------------------


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
    # With polyfit they play no part.
    img = IM.image(pixels, pixel_scales=SCALE)
    img.sky_subtraction(polyfit=True, usemedian=True, order=0, sdmask=np.zeros(SHAPE, bool))
    assert img.sky_model.to_header()["SKYMODEL"] == "polynomial"


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
        np.testing.assert_allclose(WCS(header).all_world2pix(RA, DEC, 0), [120, 100], atol=1e-9)
    from galprep_dask.sky import PolynomialSky

    np.testing.assert_array_equal(PolynomialSky.from_header(header).evaluate(), img.sky)
    with pytest.raises(OutputError, match="no directory"):
        IM.image(field[0]).sky_subtraction(filepath=tmp_path / "missing" / "x.fits")


def test_all_pixels_bad():
    with pytest.raises(NoGoodPixelsError, match="masked or not finite"):
        IM.image(np.full((30, 30), np.nan, "f4"), pixel_scales=SCALE).sky_subtraction()


# img_cut --------------------------------------------------------------------------------------------------


def test_cutout_is_centred_on_the_target_and_its_position_slices_full_frames(flat):
    img = IM.image(flat)
    cutout, cp = img.img_cut(RA, DEC, 10.0)
    x0, x1, y0, y1 = cp
    assert isinstance(cutout, np.ndarray)
    assert cp == [100, 141, 80, 121]  # 20 px to each side of (120, 100)
    np.testing.assert_array_equal(cutout, fits.getdata(flat)[y0:y1, x0:x1])
    assert img.cut_image is cutout
    para = img.coordinates_transfer_para
    assert (para["x0"], para["y0"]) == pytest.approx((20, 20), abs=1e-9)
    # East is -x, north is +y: two pixels to the arcsec.
    np.testing.assert_allclose(para["matrix"], [[-2, 0], [0, 2]], atol=1e-4)


@pytest.mark.parametrize("size", [10, 10.0, 10 * u.arcsec, (10 / 60) * u.arcmin])
def test_cutsize_is_a_half_size_in_arcsec(flat, size):
    assert IM.image(flat).img_cut(RA, DEC, size)[0].shape == (41, 41)


def test_cutsize_of_four_goes_to_each_side(flat):
    assert IM.image(flat).img_cut(RA, DEC, [5, 10, 2, 20])[1] == [110, 141, 96, 141]


def test_cutposition_overrides_cutsize(flat):
    cutout, cp = IM.image(flat).img_cut(RA, DEC, 10.0, cutposition=[3, 20, 5, 9])
    assert cp == [3, 20, 5, 9]
    np.testing.assert_array_equal(cutout, fits.getdata(flat)[5:9, 3:20])
    for wrong in ([3, 3, 5, 9], [1, 2, 3], [0.5, 4, 5, 9]):
        with pytest.raises(ParameterError, match="cutposition"):
            IM.image(flat).img_cut(RA, DEC, 10.0, cutposition=wrong)


def test_ifs_cubes_are_cut_along_their_last_two_axes(tmp_path):
    path = tmp_path / "cube.fits"
    cube = np.random.default_rng(0).normal(size=(7, 50, 60)).astype("f4")
    cube[:, 22, 30] = np.nan
    header = tan_header((50, 60), CTYPE3="WAVE", CRVAL3=5e-7, CDELT3=1e-9, CRPIX3=1.0, CUNIT3="m")
    fits.writeto(path, cube, header)
    img = IM.image(path)
    cutout, (x0, x1, y0, y1) = img.img_cut(RA, DEC, 5.0, IFS=True)
    np.testing.assert_array_equal(cutout, cube[:, y0:y1, x0:x1])
    assert img.cut_mask_image.shape == cutout.shape[1:]
    assert np.argwhere(img.cut_mask_image).tolist() == [[22 - y0, 30 - x0]]
    with pytest.raises(ParameterError, match="IFS=False"):
        img.img_cut(RA, DEC, 5.0)
    with pytest.raises(ParameterError, match="is a cube"):
        img.sky_subtraction()


def test_ifs_of_an_image_is_an_error(flat):
    with pytest.raises(ParameterError, match="IFS=True"):
        IM.image(flat).img_cut(RA, DEC, 5.0, IFS=True)


def test_usemaxpix_recentres_within_zoomsize(flat):
    pixels = fits.getdata(flat)
    pixels[100, 60] = 1e6  # a hot pixel 60 px to the left of the target
    mask = np.zeros(SHAPE, bool)
    img = IM.image(pixels, mask=mask, pixel_scales=SCALE)
    img.data.header.update(tan_header(SHAPE))
    _, far = img.img_cut(RA, DEC, 5.0, usemaxpix=True, zoomsize=100)
    assert far == [50, 71, 90, 111]
    _, near = img.img_cut(RA, DEC, 5.0, usemaxpix=True, zoomsize=5)
    peak = np.array(np.unravel_index(np.argmax(pixels[96:105, 116:125]), (9, 9))) + (96, 116)
    assert near == [peak[1] - 10, peak[1] + 11, peak[0] - 10, peak[0] + 11]
    assert img.img_cut(RA, DEC, 5.0, usemaxpix=False, zoomsize=100)[1] == [110, 131, 90, 111]
    mask[100, 60] = True
    img = IM.image(pixels, mask=mask, pixel_scales=SCALE)
    img.data.header.update(tan_header(SHAPE))
    assert img.img_cut(RA, DEC, 5.0, usemaxpix=True, zoomsize=100)[1] != far


def test_referpix_replaces_the_position_and_spcorrection_is_added(flat):
    img = IM.image(flat)
    assert img.img_cut(RA, DEC, 5.0, referpix=(40, 50))[1] == [30, 51, 40, 61]
    assert img.img_cut(RA, DEC, 5.0, referpix=(40, 50), spcorrection=[2, -3])[1] == [32, 53, 37, 58]
    assert img.img_cut(RA, DEC, 5.0, spcorrection=[1.0, 0.0])[1] == [111, 132, 90, 111]


def test_sky_median_is_clipped_or_plain(flat):
    img = IM.image(flat)
    cutout, _ = img.img_cut(RA, DEC, 10.0, sigma_clipped=False)
    assert img.sky_median == np.median(cutout)
    plain = img.sky_median
    img.img_cut(RA, DEC, 10.0, sigma_clipped=True)
    assert img.sky_median < plain - 0.2


def test_bad_pixels_of_the_cutout_are_in_its_mask(flat):
    pixels = fits.getdata(flat)
    pixels[95, 118] = np.nan
    img = IM.image(pixels, pixel_scales=SCALE)
    img.data.header.update(tan_header(SHAPE))
    _, (x0, _, y0, _) = img.img_cut(RA, DEC, 10.0)
    assert np.argwhere(img.cut_mask_image).tolist() == [[95 - y0, 118 - x0]]


def test_sigma_of_the_cutout_is_that_of_the_full_frame(flat):
    img = IM.image(flat)
    img.img_cut(RA, DEC, 10.0)
    assert img.cut_sigma_image is None
    sigma = img.cal_sigma_image(50.0, gain=2.0)
    _, (x0, x1, y0, y1) = img.img_cut(RA, DEC, 10.0)
    np.testing.assert_array_equal(img.cut_sigma_image, np.asarray(sigma)[y0:y1, x0:x1])


def test_cutout_at_an_edge_is_cut_off_with_a_warning(flat):
    img = IM.image(flat)
    with pytest.warns(EdgeWarning, match=r"cut off to \[0, 16, 190, 201\]"):
        cutout, cp = img.img_cut(0, 0, 5.0, referpix=(5, 200))
    np.testing.assert_array_equal(cutout, fits.getdata(flat)[cp[2] : cp[3], cp[0] : cp[1]])


def test_targets_that_are_not_there(flat):
    img = IM.image(flat)
    with pytest.raises(TargetOutsideError, match=r"ra=150.5, dec=2.0 is at pixel .* outside .*flat.fits"):
        img.img_cut(150.5, DEC, 5.0)
    with pytest.raises(TargetOutsideError, match="not on the part of the sky"):
        img.img_cut(RA + 180, -DEC, 5.0)
    with pytest.raises(ParameterError, match="swapped"):
        img.img_cut(DEC, RA, 5.0)
    for wrong in (0, -1, np.nan, [1, 2], "wide", None):
        with pytest.raises(ParameterError, match="cutsize="):
            img.img_cut(RA, DEC, wrong)


# cal_sigma_image ------------------------------------------------------------------------------------------


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


# generate_cutmask -----------------------------------------------------------------------------------------


def count(img, **changed):
    return int(img.generate_cutmask(**({"psfFWHM": 1.5} | changed)).sum())


def test_neighbour_is_masked_and_target_is_not(cut):
    mask = cut.generate_cutmask(1.5)
    x0, _, y0, _ = cut.cut_position
    assert isinstance(mask, np.ndarray)
    assert mask.dtype == bool
    assert mask.shape == cut.cut_image.shape
    target, neighbour = (120 - x0, 100 - y0), (150 - x0, 100 - y0)
    assert not mask[target[1] - 5 : target[1] + 6, target[0] - 5 : target[0] + 6].any()
    assert mask[neighbour[1] - 5 : neighbour[1] + 6, neighbour[0] - 5 : neighbour[0] + 2].all()


def test_data_may_be_passed_or_be_that_of_img_cut(cut):
    np.testing.assert_array_equal(cut.generate_cutmask(1.5), cut.generate_cutmask(1.5, data=cut.cut_image))
    # In data of another shape the target is in the middle.
    other, (x, y), (nx, _) = two_galaxies((81, 101), separation=30)
    mask = cut.generate_cutmask(1.5, data=da.from_array(other))
    assert not mask[int(y), int(x)]
    assert mask[int(y), int(nx)]


def test_sdmask_is_masked_in_any_case(cut):
    sdmask = np.zeros(cut.cut_image.shape, bool)
    sdmask[30, 30] = sdmask[2, 3] = True
    mask = cut.generate_cutmask(1.5, sdmask=sdmask)
    assert mask[sdmask].all()
    np.testing.assert_array_equal(mask & ~sdmask, cut.generate_cutmask(1.5) & ~sdmask)
    full = np.zeros(SHAPE, bool)
    x0, x1, y0, y1 = cut.cut_position
    full[y0:y1, x0:x1] = sdmask
    np.testing.assert_array_equal(cut.generate_cutmask(1.5, sdmask=full), mask)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"nsigma": 30.0, "max_grow_size": 0}, {"nsigma": 3.0, "max_grow_size": 0}),
        ({"npixels": 5000}, {"npixels": 5}),
        ({"max_grow_size": 0}, {"max_grow_size": 10}),
        ({"sky_level": 20.0}, {"sky_level": 0.0}),
        ({"addgrow": 0}, {"addgrow": 3}),
        ({"growmethod": False, "magnification": 1.0}, {"growmethod": False, "magnification": 4.0}),
        ({"left_source": True}, {"left_source": False}),
        ({"psfFWHM": 0.8, "max_grow_size": 0}, {"psfFWHM": 2.5, "max_grow_size": 0}),
    ],
)
def test_parameter_widens_the_mask(cut, less, more):
    assert count(cut, **less) < count(cut, **more)


def test_growth_and_ellipses_differ(cut):
    grown, ellipses = cut.generate_cutmask(1.5), cut.generate_cutmask(1.5, growmethod=False)
    assert (grown != ellipses).any()
    assert grown.any()
    assert ellipses.any()


@pytest.fixture
def blend():
    """A target and a neighbour that touch."""
    shape = (81, 81)
    pixels = np.random.default_rng(1).normal(0, 1.0, shape) + gaussian(shape, 40, 40, 30000, 4.0)
    pixels = (pixels + gaussian(shape, 54, 40, 20000, 3.0)).astype("f4")
    img = IM.image(pixels, pixel_scales=SCALE)
    img.img_cut(0, 0, 20.0, referpix=(40, 40))
    return img


def test_deblend_masks_a_neighbour_that_touches(blend):
    assert not blend.generate_cutmask(1.5).any()
    mask = blend.generate_cutmask(1.5, deblend=True)
    assert mask[40, 56]
    assert not mask[40, 38]


def test_nlevels_and_contrast_reach_the_deblending(blend):
    assert blend.generate_cutmask(1.5, deblend=True, contrast=0.001).any()
    assert not blend.generate_cutmask(1.5, deblend=True, contrast=0.9).any()
    assert not blend.generate_cutmask(1.5, deblend=True, nlevels=1).any()


def test_source_dia_takes_every_segment_within_for_the_target(cut):
    assert count(cut, source_dia=0.5) > 0
    assert count(cut, source_dia=2 * 26 * SCALE) == 0  # the neighbour's edge is 26 px away at most


def test_nearbygrow_widens_neighbours_that_touch_the_target_only(blend):
    without = blend.generate_cutmask(1.5, deblend=True, max_grow_size=5)
    wider = blend.generate_cutmask(1.5, deblend=True, max_grow_size=5, nearbygrow=6)
    assert wider.sum() > without.sum()
    assert (wider | without == wider).all()
    assert not wider[40, 38]


def test_nearbygrow_leaves_neighbours_far_off_alone(cut):
    np.testing.assert_array_equal(
        cut.generate_cutmask(1.5, max_grow_size=2, nearbygrow=9), cut.generate_cutmask(1.5, max_grow_size=2)
    )


def test_cutmask_needs_a_cutout(flat):
    with pytest.raises(ParameterError, match="call img_cut before generate_cutmask"):
        IM.image(flat).generate_cutmask(1.5)


# write_imcut ----------------------------------------------------------------------------------------------


def test_product_holds_image_mask_and_sigma_with_a_wcs(cut, tmp_path):
    path = tmp_path / "cut.fits"
    path.write_bytes(b"an earlier run")
    cut.cut_mask_image = cut.generate_cutmask(1.5)
    cut.write_imcut(RA, DEC, path)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 3
        np.testing.assert_array_equal(hdus[0].data, cut.cut_image)
        np.testing.assert_array_equal(hdus[1].data, cut.cut_mask_image)
        np.testing.assert_array_equal(hdus[2].data, cut.cut_sigma_image)
        header = hdus[0].header
        x0, _, y0, _ = cut.cut_position
        np.testing.assert_allclose(WCS(header).all_world2pix(RA, DEC, 0), [120 - x0, 100 - y0], atol=1e-6)
        assert (header["LTV1"], header["LTV2"]) == (-x0, -y0)
        assert (header["GAIN"], header["EXPTIME"], header["BUNIT"]) == (2.0, 50.0, "adu")
        assert (header["RA_TARG"], header["DEC_TARG"]) == (RA, DEC)


def test_header_is_taken_in_place_of_the_image_s_own(cut, tmp_path):
    header = tan_header(SHAPE, OBJECT="given")
    cut.write_imcut(RA, DEC, tmp_path / "cut.fits", header=header)
    assert fits.getheader(tmp_path / "cut.fits")["OBJECT"] == "given"
    assert header["CRPIX1"] == 121


def test_product_says_which_sky_was_subtracted(field, tmp_path):
    from galprep_dask.sky import PolynomialSky

    img = IM.image(field[0])
    img.sky_subtraction(order=1)
    img.cal_sigma_image(1.0)
    img.img_cut(RA, DEC, 5.0)
    img.write_imcut(RA, DEC, tmp_path / "cut.fits", header=fits.getheader(field[0]))
    written = PolynomialSky.from_header(fits.getheader(tmp_path / "cut.fits"))
    np.testing.assert_array_equal(written.coefficients, img.sky_model.coefficients)


def test_addpixsc_and_addmodel(cut, tmp_path):
    cut.write_imcut(RA, DEC, tmp_path / "plain.fits")
    assert "PIXSCALE" not in fits.getheader(tmp_path / "plain.fits")
    with pytest.raises(ParameterError, match="model_image is None"):
        cut.write_imcut(RA, DEC, tmp_path / "cut.fits", addmodel=True)
    cut.model_image = cut.cut_image * 0.5
    cut.write_imcut(RA, DEC, tmp_path / "cut.fits", addpixsc=True, addmodel=True)
    with fits.open(tmp_path / "cut.fits") as hdus:
        assert hdus[0].header["PIXSCALE"] == pytest.approx(SCALE, rel=1e-6)
        assert hdus[3].name == "MODEL"
        np.testing.assert_array_equal(hdus[3].data, cut.model_image)


def test_what_is_missing_is_named(flat, tmp_path):
    img = IM.image(flat)
    with pytest.raises(ParameterError, match="call img_cut before write_imcut"):
        img.write_imcut(RA, DEC, tmp_path / "cut.fits")
    img.img_cut(RA, DEC, 5.0)
    with pytest.raises(ParameterError, match="no sigma image"):
        img.write_imcut(RA, DEC, tmp_path / "cut.fits")
    img.cut_sigma_image = np.ones((3, 3))
    with pytest.raises(ImageShapeError, match=r"sigma has shape \(3, 3\)"):
        img.write_imcut(RA, DEC, tmp_path / "cut.fits")
    assert not list(tmp_path.glob("*cut*"))
