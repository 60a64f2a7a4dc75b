"""The class itself: what it opens, and what its arguments mean."""

import inspect
import logging

import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from fields import SCALE, tan_header
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask.errors import (
    HDUError,
    HDUFallbackWarning,
    ImageNotFoundError,
    ImageShapeError,
    MissingWCSError,
    ParameterError,
)

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


def test_hdu_is_for_files():
    with pytest.raises(ParameterError, match="hdu=1 is for files"):
        IM.image(np.ones((4, 5)), hdu=1)


def test_mask_may_be_a_file_or_an_hdu_of_one(flat, tmp_path):
    mask = np.zeros(SHAPE, "u1")
    mask[3, 4] = 8
    fits.HDUList([fits.PrimaryHDU(mask), fits.ImageHDU(mask[::-1].copy())]).writeto(tmp_path / "mask.fits")
    from_file = IM.image(flat, mask=tmp_path / "mask.fits")
    assert np.argwhere(np.asarray(from_file.data.mask)).tolist() == [[3, 4]]
    from_hdu = IM.image(flat, mask=(tmp_path / "mask.fits", 1))
    assert np.argwhere(np.asarray(from_hdu.data.mask)).tolist() == [[SHAPE[0] - 4, 4]]
    with pytest.raises(ImageShapeError, match=r"mask has shape \(3, 3\)"):
        IM.image(flat, mask=np.zeros((3, 3), bool))


@pytest.mark.parametrize("mirrored", [False, True])
def test_pixel_scales_and_rotation_take_the_place_of_those_of_the_wcs(flat, mirrored):
    header = tan_header(SHAPE, rotation=20.0)
    if mirrored:
        header["CD1_1"], header["CD2_1"] = -header["CD1_1"], -header["CD2_1"]
    ccd = CCDData(np.ones(SHAPE), unit="adu", wcs=WCS(header))
    matrices = {}
    for given in ({}, {"pixel_scales": 0.25}, {"wcs_rotation": 75.0}, {"pixel_scales": 0.25, "wcs_rotation": 75.0}):
        img = IM.image(ccd, **given)
        img.img_cut(RA, DEC, 5.0)
        matrices[tuple(given)] = img.coordinates_transfer_para["matrix"]
    own = matrices[()]
    assert np.sign(np.linalg.det(own)) == (1 if mirrored else -1)
    np.testing.assert_allclose(matrices["pixel_scales",], own * (SCALE / 0.25), rtol=1e-5)
    sin, cos = np.sin(np.radians(75)), np.cos(np.radians(75))
    for given, scale in ((("wcs_rotation",), SCALE), (("pixel_scales", "wcs_rotation"), 0.25)):
        east, north = matrices[given].T * scale
        np.testing.assert_allclose(north, [sin, cos], atol=1e-5)
        np.testing.assert_allclose(east, np.array([-cos, sin]) * (-1 if mirrored else 1), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pixel_scales", [0, -1, np.nan, "wide", [0.3, 0.3]]),
        ("psfFWHM_map", [0, np.inf, "1"]),
        ("wcs_rotation", [np.nan, "N"]),
        ("zero_point", [np.inf, "AB"]),
        ("phys_to_image", [np.nan, [1.0]]),
    ],
)
def test_values_that_make_no_sense_are_named(name, values):
    for value in values:
        with pytest.raises(ParameterError, match=f"{name}="):
            IM.image(np.ones((4, 4)), **{name: value})


def test_what_needs_coordinates_says_what_it_lacks_where_there_is_no_wcs():
    img = IM.image(np.random.default_rng(0).normal(size=(40, 50)))
    with pytest.raises(MissingWCSError, match="no celestial WCS.*referpix"):
        img.img_cut(RA, DEC, 5.0)
    for call in (lambda: img.sky_subtraction(), lambda: img.img_cut(0, 0, 5.0, referpix=(20, 20))):
        with pytest.raises(MissingWCSError, match="pass pixel_scales"):
            call()
    # What needs none goes on.
    assert img.sky_subtraction(polyfit=False, sdmask=np.zeros((40, 50), bool)).shape == (40, 50)
    assert img.img_cut(0, 0, None, referpix=(20, 20), cutposition=[10, 31, 10, 31])[0].shape == (21, 21)
    assert "matrix" not in img.coordinates_transfer_para
