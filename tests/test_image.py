import math
import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from concurrency import run_together
from hypothesis import given
from hypothesis import strategies as st
from strategies import chunked

from galprep_dask import write_image
from galprep_dask.errors import (
    DistortionWarning,
    ImageShapeError,
    MissingExptimeError,
    MissingGainError,
    MissingWCSError,
    MissingZeropointError,
    ParameterError,
)
from galprep_dask.image import (
    bad_pixels,
    celestial_wcs,
    describe,
    header_text,
    image_header,
    make_image,
    parse_header,
    pixel_scale,
    require,
    with_header,
)


def tan_header(**extra):
    """Sky coordinates made by hand: 0.2 arcsec a pixel, the reference is FITS pixel (51, 101)."""
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CRVAL1": 150.0,
        "CRVAL2": 2.0, "CRPIX1": 51.0, "CRPIX2": 101.0, "CD1_1": -0.2 / 3600, "CD1_2": 0.0, "CD2_1": 0.0,
        "CD2_2": 0.2 / 3600,
    }  # fmt: skip
    return fits.Header(list((cards | extra).items()))


def test_first_fits_pixel_is_pixel_zero():
    wcs = celestial_wcs(tan_header())
    # FITS counts from 1, so that CRPIX = (51, 101) is x = 50, y = 100 here.
    assert wcs.all_world2pix(150.0, 2.0, 0) == pytest.approx((50.0, 100.0), abs=1e-9)
    north = wcs.all_world2pix(150.0, 2.0 + 0.2 / 3600, 0)
    assert north == pytest.approx((50.0, 101.0), abs=1e-6)
    assert wcs.array_shape is None or wcs.naxis == 2


def test_pixel_scale_is_the_side_of_a_pixel_in_arcsec():
    assert pixel_scale(tan_header()) == pytest.approx(0.2, rel=1e-12)
    turned = tan_header(CD1_1=-0.3 / 3600, CD1_2=0.4 / 3600, CD2_1=0.4 / 3600, CD2_2=0.3 / 3600)
    assert pixel_scale(header_text(turned)) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.shared_data
def test_pixel_scales_of_real_images(shared_data):
    for name, scale in {
        "gama_g202627/VST_r.fits": 0.2, "gama_g202627/GALEX_NUV.fits": 1.5,
        "hst_xdf_f160w/xdf_hst_wfc3ir_60mas_f160w_sci.fits": 0.06, "vics82/VICS82-test_J.fits": 0.2016,
    }.items():  # fmt: skip
        assert pixel_scale(fits.getheader(shared_data / name)) == pytest.approx(scale, abs=5e-5), name


def test_celestial_axes_of_a_cube_are_taken():
    header = tan_header(CTYPE3="WAVE", CRVAL3=5e-7, CRPIX3=1.0, CDELT3=1e-10, CUNIT3="m", CD3_3=1e-10)
    wcs = celestial_wcs(header)
    assert wcs.naxis == 2
    assert wcs.all_world2pix(150.0, 2.0, 0) == pytest.approx((50.0, 100.0), abs=1e-9)


@pytest.mark.parametrize("header", ["", fits.Header(), fits.Header([("CTYPE1", "WAVE")])])
def test_no_celestial_wcs_is_an_error_that_names_the_image(header):
    with pytest.raises(MissingWCSError, match=r"'field_r.fits' \[HDU 1\] has no celestial WCS \(CTYPE1="):
        celestial_wcs(header, where="'field_r.fits' [HDU 1]")
    with pytest.raises(ValueError, match="no celestial WCS"):
        pixel_scale(header)


def test_damaged_wcs_is_an_error_that_names_the_image():
    header = tan_header(CTYPE1="RA---XYZ")
    with pytest.raises(MissingWCSError, match="the WCS of 'a.fits' cannot be read"):
        celestial_wcs(header, where="'a.fits'")


SIP = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6, "B_0_2": 1e-6}
SCAMP = {f"PV{axis}_{n}": float(n == 1) for axis in (1, 2) for n in (0, 1, 2, 4, 5, 6)} | {"PV1_5": 1e-4}


@pytest.mark.parametrize(("terms", "suffix"), [(SIP, "-SIP"), (SCAMP, "TPV")])
def test_distortion_without_its_suffix_is_warned_about_once_and_names_the_file(terms, suffix):
    with pytest.warns(DistortionWarning) as caught:
        celestial_wcs(tan_header(**terms), where="'field_r.fits' [HDU 2]")
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("'field_r.fits' [HDU 2] has ")
    assert f"Write {suffix!r} into CTYPE" in message
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "header",
    [
        tan_header(**SIP, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP"),
        tan_header(**SCAMP, CTYPE1="RA---TPV", CTYPE2="DEC--TPV"),
        tan_header(PV1_0=0.0, PV1_1=1.0, PV1_2=0.0),
        tan_header(),
    ],
)
def test_announced_distortions_pass_in_silence(header):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        celestial_wcs(header)


def test_building_a_wcs_in_threads_leaves_the_warning_filters_alone():
    before = list(warnings.filters)
    text = header_text(tan_header(MJD_OBS=1.0))
    found = run_together(lambda: celestial_wcs(text).all_world2pix(150.0, 2.0, 0))
    np.testing.assert_allclose(found, [(50.0, 100.0)] * 8, rtol=1e-9)
    assert list(warnings.filters) == before


def awkward_header():
    header = tan_header()
    header["HIERARCH ESO DET OUT1 GAIN"] = (1.25, "a long name")
    header["CELL.GAIN"] = 2.5
    header["LONG"] = "a value that does not fit on one card " * 5
    header["QUOTE"] = "it's 'quoted' & ends in &"
    header["EMPTY"] = ""
    header["TRAIL"] = "blanks   "
    header["FLAG"] = True
    header["UNDEF"] = None
    header["TINY"] = 1.2345678901234e-30
    header.add_comment("a comment with trailing sign /")
    header.add_comment("c" * 100)
    header.add_history("first")
    header.add_history("")
    header.add_history("first")
    header.add_blank("text in a blank card")
    header.add_blank()
    header["LAST"] = 1
    return header


def test_headers_come_back_from_their_text():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # HIERARCH is meant
        header = awkward_header()
    text = header_text(header)
    assert text.isascii()
    found = parse_header(text)
    assert [str(card) for card in found.cards] == [str(card) for card in header.cards]
    assert found["LONG"] == header["LONG"]
    assert found["HIERARCH ESO DET OUT1 GAIN"] == 1.25
    assert list(found["HISTORY"]) == ["first", "", "first"]
    assert header_text(found) == text
    assert header_text(text) is text


@pytest.mark.shared_data
def test_real_headers_come_back_from_their_text(shared_data):
    paths = sorted(shared_data.glob("*/*.fits"))
    assert len(paths) > 20
    for path in paths:
        with fits.open(path) as hdus:
            for hdu in hdus:
                found = parse_header(header_text(hdu.header))
                assert [str(card) for card in found.cards] == [str(card) for card in hdu.header.cards], path.name


def test_header_of_an_image_is_a_copy():
    image = make_image(np.zeros((2, 3)), header=fits.Header([("A", 1)]))
    header = image_header(image)
    header["A"] = 2
    assert image_header(image)["A"] == 1
    assert image_header(with_header(image, header))["A"] == 2
    assert image_header(image)["A"] == 1
    assert len(image_header(make_image(np.zeros((2, 3))))) == 0


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("u1", "f4"), ("i1", "f4"), (">i2", "f4"), ("u2", "f4"), (">i4", "f8"), ("u4", "f8"), ("i8", "f8"), ("u8", "f8"),
     (">f4", "f4"), ("f2", "f4"), (">f8", "f8"), ("?", "f4")],
)  # fmt: skip
def test_pixels_become_the_float_that_holds_them(stored, dtype):
    whole = np.array([[0, 1], [1, 0]], stored)
    for array in (whole, da.from_array(whole)):
        image = make_image(array)
        assert image["data"].dtype == np.dtype(dtype)
        assert image["data"].dtype.isnative
        assert image["data"].values.tolist() == [[0, 1], [1, 0]]


def test_planes_have_their_dtypes_and_the_chunks_of_the_image():
    data = da.zeros((4, 6), chunks=((1, 3), (5, 1)))
    image = make_image(
        data, mask=np.eye(4, 6) * 2, sigma=np.ones((4, 6), ">f4"), weight=np.ones((4, 6)),
        segmentation=np.arange(24).reshape(4, 6),
    )  # fmt: skip
    assert {name: str(image[name].dtype) for name in image} == {
        "data": "float64", "mask": "bool", "sigma": "float32", "weight": "float64", "segmentation": "int32",
    }  # fmt: skip
    assert all(image[name].data.chunks == data.chunks for name in image)
    assert all(image[name].dims == ("y", "x") for name in image)
    assert (image["mask"].values == np.eye(4, 6, dtype=bool)).all()


def test_nothing_is_computed_and_nothing_is_modified(no_compute):
    lazy = da.zeros((5, 6), chunks=2)
    with no_compute():
        make_image(lazy, mask=lazy, sigma=lazy, weight=lazy, segmentation=lazy)
        make_image(xr.DataArray(lazy, dims=("y", "x")), mask=xr.DataArray(lazy))
        cube = make_image(xr.DataArray(lazy[None], dims=("spectral", "y", "x")), mask=lazy)
    assert cube["data"].dims == ("spectral", "y", "x")
    assert cube["mask"].dims == ("y", "x")


def test_cubes_take_chunks_and_refuse_what_images_refuse():
    cube = make_image(np.zeros((4, 5, 6), ">f4"), chunks=(4, 2, 3))
    assert cube["data"].chunks == ((4,), (2, 2, 1), (3, 3))
    assert cube["data"].dtype == np.dtype("f4")
    with pytest.raises(ParameterError, match="expected real numbers"):
        make_image(np.zeros((4, 5, 6), complex))
    with pytest.raises(ParameterError, match="masked array"):
        make_image(np.ma.masked_array(np.zeros((4, 5, 6)), mask=True))
    with pytest.raises(ImageShapeError, match="cube"):
        make_image(np.zeros((0, 5, 6)))


def test_attributes_are_plain_and_the_unknown_is_absent():
    image = make_image(
        np.zeros((2, 3)), gain=np.float32(1.5), exptime=60, zeropoint=np.int64(25), hdu=np.int16(1), path="a"
    )
    assert image.attrs == {"gain": 1.5, "exptime": 60.0, "zeropoint": 25.0, "path": "a", "hdu": 1}
    assert [type(value) for value in image.attrs.values()] == [float, float, float, str, int]
    assert make_image(np.zeros((2, 3))).attrs == {}
    assert describe(image) == "'a' [HDU 1]"
    assert describe(make_image(np.zeros((2, 3)))) == "the image"


@pytest.mark.parametrize("name", ["gain", "exptime"])
@pytest.mark.parametrize("value", [0, -1.5, math.nan, math.inf])
def test_gain_and_exptime_must_be_positive(name, value):
    with pytest.raises(ParameterError, match=rf"^{name}={value!r}; expected a positive number"):
        make_image(np.zeros((2, 3)), **{name: value})


def test_zeropoint_must_be_finite():
    assert make_image(np.zeros((2, 3)), zeropoint=-2.5).attrs["zeropoint"] == -2.5
    with pytest.raises(ParameterError, match="zeropoint=nan; expected a finite magnitude"):
        make_image(np.zeros((2, 3)), zeropoint=math.nan)


@pytest.mark.parametrize("name", ["mask", "sigma", "weight", "segmentation"])
def test_planes_of_another_shape_are_named(name):
    with pytest.raises(ImageShapeError) as caught:
        make_image(np.zeros((2, 3)), **{name: np.zeros((3, 2))}, path="field_r.fits", hdu=1)
    assert str(caught.value) == (
        f"{name} has shape (3, 2), but data of 'field_r.fits' [HDU 1] has (2, 3).\n"
        f"    Cut or pad {name} to the image, or pass {name}=None."
    )


@given(chunked("f4"), st.data())
def test_bad_pixels_are_those_not_finite_and_those_masked(images, draw):
    whole, lazy = images
    mask = np.array(draw.draw(st.lists(st.booleans(), min_size=whole.size, max_size=whole.size))).reshape(whole.shape)
    lazy_mask = da.from_array(mask, chunks=lazy.chunks, name=False)
    np.testing.assert_array_equal(bad_pixels(lazy).compute(scheduler="sync"), ~np.isfinite(whole))
    np.testing.assert_array_equal(bad_pixels(lazy, lazy_mask).compute(scheduler="sync"), ~np.isfinite(whole) | mask)


def test_bad_pixels_by_example():
    data = da.from_array(np.array([[0.0, np.nan, np.inf, -np.inf, -1e30, 5.0]]))
    assert bad_pixels(data).compute().tolist() == [[False, True, True, True, False, False]]
    mask = da.from_array(np.array([[True, False, False, False, False, False]]))
    assert bad_pixels(data, mask).compute().tolist() == [[True, True, True, True, False, False]]


@pytest.mark.parametrize(
    ("name", "error", "unit"),
    [
        ("gain", MissingGainError, "e-/ADU"),
        ("exptime", MissingExptimeError, "s"),
        ("zeropoint", MissingZeropointError, "mag"),
    ],
)
def test_missing_quantities_name_argument_and_keywords(name, error, unit):
    image = make_image(np.zeros((2, 3)), path="field_r.fits", hdu=1)
    with pytest.raises(error) as caught:
        require(image, name, ("ONE", "TWO"))
    assert str(caught.value) == f"no {name} for 'field_r.fits' [HDU 1]: looked for ONE, TWO. Pass {name}= in {unit}."
    assert require(image.assign_attrs({name: 3.5}), name, ()) == 3.5


@pytest.mark.parametrize("wrong", [2**40, -1])
def test_labels_that_int32_does_not_hold_are_refused(tmp_path, wrong):
    labels = np.zeros((6, 7), np.int64)
    labels[2, 2] = wrong
    image = make_image(np.ones((6, 7)), segmentation=labels)
    with pytest.raises(ParameterError, match=f"segmentation has labels.* {wrong}"):
        image["segmentation"].compute()
    for named in (image, make_image(np.ones((6, 7))).assign(segmentation=(("y", "x"), labels))):
        with pytest.raises(ParameterError, match=f"segmentation has labels.* {wrong}"):
            write_image(named, tmp_path / "image.fits")
    assert list(tmp_path.iterdir()) == []
