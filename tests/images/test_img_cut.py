"""Step 2: every parameter of ``img_cut``."""


import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from fields import SCALE, tan_header
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask.errors import (
    EdgeWarning,
    NoGoodPixelsError,
    ParameterError,
    TargetOutsideError,
)


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


CORNERS = {(0, 0): [0, 11, 0, 11], (240, 0): [230, 241, 0, 11], (0, 200): [0, 11, 190, 201],
           (240, 200): [230, 241, 190, 201]}  # fmt: skip


@pytest.mark.parametrize("corner", CORNERS)
def test_target_on_a_corner(flat, corner):
    img = IM.image(flat)
    ra, dec = (float(angle) for angle in img.data.wcs.all_pix2world(*corner, 0))
    with pytest.warns(EdgeWarning, match="crosses the edge"):
        cutout, cp = img.img_cut(ra, dec, 5.0)
    assert cp == CORNERS[corner]
    np.testing.assert_array_equal(cutout, fits.getdata(flat)[cp[2] : cp[3], cp[0] : cp[1]])
    para = img.coordinates_transfer_para
    assert (para["x0"] + cp[0], para["y0"] + cp[2]) == pytest.approx(corner, abs=1e-6)
    # Half a pixel further out there is no image.
    step = np.sign(np.subtract(corner, (120, 100))) * 0.51
    with pytest.raises(TargetOutsideError, match="outside .*flat.fits"):
        img.img_cut(0, 0, 5.0, referpix=np.add(corner, step))


def test_size_beyond_the_image_gives_the_whole_image(flat):
    img = IM.image(flat)
    with pytest.warns(EdgeWarning, match=r"cut off to \[0, 241, 0, 201\]"):
        cutout, cp = img.img_cut(RA, DEC, 3600.0)
    assert cp == [0, 241, 0, 201]
    np.testing.assert_array_equal(cutout, fits.getdata(flat))


def test_cutposition_may_cross_the_edge_and_may_not_lie_outside(flat):
    img = IM.image(flat)
    with pytest.warns(EdgeWarning, match="cut off"):
        assert img.img_cut(RA, DEC, 5.0, cutposition=[-4, 10, 195, 230])[1] == [0, 10, 195, 201]
    with pytest.raises(TargetOutsideError, match="lie outside"):
        img.img_cut(RA, DEC, 5.0, cutposition=[300, 310, 5, 9])


@pytest.mark.parametrize(
    ("ra", "dec"),
    [(2.0, 150.0), (150.0, 92.0), (400.0, 2.0), (np.nan, 2.0), (None, 2.0), ("10:00:00", 2.0), (150 * u.m, 2.0)],
)
def test_positions_that_are_none_are_told_to_be(flat, ra, dec):
    with pytest.raises(ParameterError, match=r"is no position in degrees: .* swapped"):
        IM.image(flat).img_cut(ra, dec, 5.0)


def test_position_may_have_units(flat):
    assert IM.image(flat).img_cut(10 * u.hourangle, 120 * u.arcmin, 5.0)[1] == [110, 131, 90, 111]


@pytest.mark.parametrize("size", [1e-4, 0.2, 5 * u.pix, 5 * u.s, [[1, 2], [3, 4]], [1, 2, 3, 0], [1, 2, 3, "wide"]])
def test_sizes_that_make_no_sense(flat, size):
    with pytest.raises(ParameterError, match="cutsize="):
        IM.image(flat).img_cut(RA, DEC, size)


def test_quantities_of_four(flat):
    expected = [110, 141, 96, 141]
    assert IM.image(flat).img_cut(RA, DEC, [5, 10, 2, 20] * u.arcsec)[1] == expected
    assert IM.image(flat).img_cut(RA, DEC, [5 * u.arcsec, 10 * u.arcsec, 2 * u.arcsec, u.arcmin / 3])[1] == expected


@pytest.mark.parametrize("name", ["referpix", "spcorrection"])
@pytest.mark.parametrize("value", [(1,), (1, 2, 3), 5, (np.nan, 1), ("a", "b")])
def test_pixel_positions_that_are_none(flat, name, value):
    with pytest.raises(ParameterError, match=f"{name}="):
        IM.image(flat).img_cut(RA, DEC, 5.0, **{name: value})


@pytest.mark.parametrize("zoomsize", [0, -1, np.inf, np.nan, None, "near"])
def test_zoomsize_that_makes_no_sense(flat, zoomsize):
    with pytest.raises(ParameterError, match="zoomsize="):
        IM.image(flat).img_cut(RA, DEC, 5.0, usemaxpix=True, zoomsize=zoomsize)


def test_cutout_of_bad_pixels_alone_says_so(flat):
    mask = np.zeros(SHAPE, bool)
    mask[80:121, 100:141] = True
    with pytest.raises(NoGoodPixelsError, match="masked or not finite"):
        IM.image(flat, mask=mask).img_cut(RA, DEC, 10.0)
