"""Cutouts: the right pixels, the right sky coordinates, the right edges."""

import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from fields import gaussian, tan_header
from hypothesis import given
from hypothesis import strategies as st
from projections import SHAPE, projections

from galprep_dask import make_image
from galprep_dask.cutouts import cut_header, cutout
from galprep_dask.cutouts.cutout import header_of_cut, header_pattern
from galprep_dask.cutouts.position import sky_axes
from galprep_dask.errors import EdgeWarning, MissingWCSError, ParameterError, TargetOutsideError
from galprep_dask.image import celestial_wcs, header_text, pixels_to_sky

PIXELS = np.arange(201 * 241, dtype="f4").reshape(SHAPE)


def image(header=None, **planes):
    data = da.from_array(PIXELS, chunks=(50, 70))
    return make_image(data, header=tan_header(SHAPE) if header is None else header, **planes)


@pytest.mark.parametrize("name", projections())
def test_every_corner_keeps_its_sky_position(name):
    header = projections()[name]
    parent = WCS(header)
    ra, dec = (float(v) for v in parent.all_pix2world(70.3, 140.8, 0))
    cut = cutout(image(header), ra, dec, (31, 45))
    own = cut.galprep.wcs
    offset = np.array([70 - 22, 141 - 15])
    corners = np.array([[0, 0], [44, 0], [0, 30], [44, 30], [22.3, 14.8]])
    np.testing.assert_allclose(own.all_world2pix(parent.all_pix2world(corners + offset, 0), 0), corners, atol=1e-6)
    assert (cut.galprep.header["LTV1"], cut.galprep.header["LTV2"]) == (-48, -126)
    np.testing.assert_array_equal(cut["data"], PIXELS[126:157, 48:93])
    if name == "alternative":
        np.testing.assert_allclose(WCS(cut.galprep.header, key="A").wcs_pix2world(0, 0, 0), [7 + 48, 9 + 126])


def test_offsets_add_up_over_cutouts_of_cutouts():
    first = cutout(image(), 150.0, 2.0, 101)
    second = cutout(first, 150.0, 2.0, 21)
    direct = cutout(image(), 150.0, 2.0, 21)
    assert second.galprep.header["LTV1"] == direct.galprep.header["LTV1"] == -110
    assert second.galprep.header["CRPIX1"] == direct.galprep.header["CRPIX1"]
    np.testing.assert_array_equal(second["data"], direct["data"])


def test_a_star_is_found_where_it_was_put_in_both_countings():
    """Pixel centres at integers from 0; FITS counts from 1."""
    x, y = 83.25, 120.75
    star = gaussian(SHAPE, x, y, 1000, 2.0)
    ra, dec = (float(v) for v in WCS(tan_header(SHAPE)).all_pix2world(x, y, 0))
    cut = cutout(make_image(star, header=tan_header(SHAPE)), ra, dec, 41)
    pixels = cut["data"].values
    iy, ix = np.mgrid[:41, :41]
    centre = np.array([(pixels * ix).sum(), (pixels * iy).sum()]) / pixels.sum()
    np.testing.assert_allclose(cut.galprep.wcs.all_world2pix(ra, dec, 0), centre, atol=1e-3)
    np.testing.assert_allclose(cut.galprep.wcs.all_world2pix(ra, dec, 1), centre + 1, atol=1e-3)


@given(x=st.floats(0, 240), y=st.floats(0, 200), ny=st.integers(1, 60), nx=st.integers(1, 60))
def test_target_is_within_half_a_pixel_of_the_middle(x, y, ny, nx):
    ra, dec = (float(v) for v in WCS(tan_header(SHAPE)).all_pix2world(x, y, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgeWarning)
        cut = cutout(image(), ra, dec, (ny, nx))
    assert cut["data"].shape == (ny, nx)
    position = cut.galprep.wcs.all_world2pix(ra, dec, 0)
    np.testing.assert_allclose(position, [(nx - 1) / 2, (ny - 1) / 2], atol=0.5 + 1e-5)


def test_every_plane_is_cut_and_beyond_the_edge_it_is_masked():
    mask = PIXELS % 97 == 0
    planes = {"mask": mask, "sigma": PIXELS + 1, "weight": PIXELS + 2, "segmentation": (PIXELS % 5).astype("i4")}
    ra, dec = (float(v) for v in WCS(tan_header(SHAPE)).all_pix2world(3, 198, 0))
    with pytest.warns(EdgeWarning, match="0 rows below, 8 above, 7 columns left, 0 right"):
        cut = cutout(image(**planes), ra, dec, 21)
    assert cut["data"].shape == (21, 21)
    inside = (slice(0, 13), slice(7, 21))
    parent = (slice(188, 201), slice(0, 14))
    for name, expected in {"data": PIXELS, **planes}.items():
        np.testing.assert_array_equal(cut[name].values[inside], expected[parent])
        assert cut[name].dtype == image(**planes)[name].dtype
    beyond = np.ones((21, 21), bool)
    beyond[inside] = False
    assert np.isnan(cut["data"].values[beyond]).all()
    assert cut["mask"].values[beyond].all()
    assert (cut["segmentation"].values[beyond] == 0).all()
    assert (cut["weight"].values[beyond] == 0).all()
    position = cut.galprep.wcs.all_world2pix(ra, dec, 0)
    np.testing.assert_allclose(position, [10, 10], atol=1e-6)


def test_padding_masks_where_there_was_no_mask():
    ra, dec = (float(v) for v in WCS(tan_header(SHAPE)).all_pix2world(0, 0, 0))
    with pytest.warns(EdgeWarning):
        cut = cutout(image(), ra, dec, 11)
    np.testing.assert_array_equal(cut["mask"], np.isnan(cut["data"]))
    assert int(cut["mask"].sum()) == 121 - 36


def test_a_cutout_is_lazy_and_reads_only_its_chunks(no_compute):
    with no_compute():
        cut = cutout(image(), 150.0, 2.0, 11)
        assert isinstance(cut["data"].data, da.Array)
    assert cut["data"].data.numblocks <= (2, 2)


@pytest.mark.parametrize("size", [21, np.int64(21), (21, 21), 10.5 * u.arcsec, [10.5, 10.5] * u.arcsec])
def test_size_in_pixels_or_on_the_sky(size):
    assert cutout(image(), 150.0, 2.0, size)["data"].shape == (21, 21)


def test_positions_may_have_units():
    position = SkyCoord("10h00m00s", "+02d00m00s")
    plain = cutout(image(), 150.0, 2.0, 11)
    np.testing.assert_array_equal(cutout(image(), position.ra, position.dec, 11)["data"], plain["data"])


def test_cubes_are_cut_along_their_last_axes():
    cube = np.random.default_rng(0).normal(size=(5, *SHAPE))
    cut = cutout(make_image(cube, header=tan_header(SHAPE)), 150.0, 2.0, 11)
    np.testing.assert_array_equal(cut["data"], cube[:, 95:106, 115:126])


@pytest.mark.parametrize("wrong", [0, -3, 2.5, np.nan, (1, 2, 3), 3 * u.s])
def test_sizes_that_make_no_sense(wrong):
    with pytest.raises(ParameterError, match="size="):
        cutout(image(), 150.0, 2.0, wrong)


def test_targets_that_are_not_there():
    with pytest.raises(TargetOutsideError, match=r"at pixel x=.*outside the image, which has 241 x 201 pixels"):
        cutout(image(), 150.1, 2.0, 11)
    with pytest.raises(TargetOutsideError, match="not on the part of the sky"):
        cutout(image(), 330.0, -2.0, 11)
    with pytest.raises(ParameterError, match=r"^ra=2.0, dec=150.0 is no position in degrees"):
        cutout(image(), np.float64(2.0), np.float64(150.0), 11)
    for ra, dec in ((2.0, 150.0), (np.nan, 2.0), (1500.0, 2.0)):
        with pytest.raises(ParameterError, match="no position in degrees"):
            cutout(image(), ra, dec, 11)
    with pytest.raises(MissingWCSError, match="no celestial WCS"):
        cutout(image(fits.Header()), 150.0, 2.0, 11)


def test_header_of_the_parent_is_not_modified():
    header = tan_header(SHAPE)
    before = header.tostring()
    moved = cut_header(header, 10, 20, 5, 6)
    assert header.tostring() == before
    assert (moved["CRPIX1"], moved["CRPIX2"]) == (121 - 10, 101 - 20)
    assert (moved["NAXIS1"], moved["NAXIS2"]) == (5, 6)


def test_crpix_that_a_header_leaves_out_is_zero():
    header = tan_header(SHAPE)
    del header["CRPIX1"]
    moved = cut_header(header, 10, 20, 5, 6)
    parent, own = WCS(header), WCS(moved)
    np.testing.assert_allclose(own.all_pix2world(0, 0, 0), parent.all_pix2world(10, 20, 0), atol=1e-12)


@given(
    crpix=st.floats(-1e9, 1e9) | st.floats() | st.integers(-(10**6), 10**6), offset=st.integers(-(2**31), 2**31),
    comment=st.text("abc /'", max_size=60),
)  # fmt: skip
def test_header_text_of_many_cutouts_is_that_of_one(crpix, offset, comment):
    if not np.isfinite(crpix):
        return
    header = tan_header(SHAPE, LTV1=crpix / 3, COMMENT="a comment")
    header["CRPIX1"] = (crpix, comment)
    header.add_history("CRPIX1 = 5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # of the comment that was too long to begin with
        header = fits.Header.fromstring(header.tostring())
    pattern = pickle.loads(pickle.dumps(header_pattern(header)))
    for x0 in (offset, 0):
        assert header_of_cut(pattern, x0, 3, 21, 31) == header_text(cut_header(header, x0, 3, 21, 31))


@pytest.mark.parametrize("name", projections())
def test_header_text_of_many_cutouts_is_that_of_one_in_every_projection(name):
    header = projections()[name]
    del header["CRPIX2"], header["NAXIS1"]
    assert header_of_cut(header_pattern(header), 7, -9, 21, 31) == header_text(cut_header(header, 7, -9, 21, 31))


def test_an_image_in_memory_without_mask_is_padded_too():
    loaded = image().compute()
    ra, dec = (float(v) for v in WCS(tan_header(SHAPE)).all_pix2world(0, 0, 0))
    with pytest.warns(EdgeWarning):
        cut = cutout(loaded, ra, dec, 11)
    with pytest.warns(EdgeWarning):
        np.testing.assert_array_equal(cut["mask"], cutout(image(), ra, dec, 11)["mask"])


@pytest.mark.parametrize("corner", [(0, 0), (240, 0), (0, 200), (240, 200), (-0.499, -0.499), (240.499, 200.499)])
def test_a_target_on_the_corner_is_cut_and_padded(corner):
    ra, dec = (float(v) for v in WCS(tan_header(SHAPE)).all_pix2world(*corner, 0))
    x, y = (int(np.floor(at + 0.5)) for at in corner)
    with pytest.warns(EdgeWarning, match="crosses the edge of the image"):
        cut = cutout(image(), ra, dec, 21)
    assert float(cut["data"][10, 10]) == PIXELS[y, x]
    assert int(cut["mask"].sum()) == 441 - 121
    np.testing.assert_allclose(
        cut.galprep.wcs.all_world2pix(ra, dec, 0), [corner[0] - x + 10, corner[1] - y + 10], atol=1e-6
    )
    beyond = tuple(at + np.sign(at - 100) * 0.01 for at in corner) if isinstance(corner[0], float) else (-0.6, -0.6)
    ra, dec = (float(v) for v in WCS(tan_header(SHAPE)).all_pix2world(*beyond, 0))
    with pytest.raises(TargetOutsideError, match="outside the image"):
        cutout(image(), ra, dec, 21)


def test_a_cutout_larger_than_the_image_is_padded_on_all_sides():
    with pytest.warns(EdgeWarning, match="150 rows below, 150 above, 130 columns left, 130 right"):
        cut = cutout(image(), 150.0, 2.0, 501)
    np.testing.assert_array_equal(cut["data"][150:-150, 130:-130], PIXELS)
    assert int(cut["mask"].sum()) == 501**2 - PIXELS.size


def test_a_header_with_declination_first():
    header = tan_header(SHAPE)
    swapped = header.copy()
    swapped.update(CTYPE1="DEC--TAN", CTYPE2="RA---TAN", CRVAL1=2.0, CRVAL2=150.0)
    for axis in "12":
        swapped[f"CD1_{axis}"], swapped[f"CD2_{axis}"] = header[f"CD2_{axis}"], header[f"CD1_{axis}"]
    ra, dec = (float(v) for v in WCS(header).all_pix2world(70, 140, 0))
    np.testing.assert_array_equal(cutout(image(swapped), ra, dec, 11)["data"], cutout(image(), ra, dec, 11)["data"])


FRAMES = {
    "Galactic": {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
    "latitude first": {"CTYPE1": "GLAT-TAN", "CTYPE2": "GLON-TAN", "CRVAL1": 30.0, "CRVAL2": 50.0},
    "ecliptic": {"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN"}, "FK4": {"RADESYS": "FK4", "EQUINOX": 1950.0},
    "FK5 of 1975": {"RADESYS": "FK5", "EQUINOX": 1975.0},
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_targets_are_icrs_in_images_of_other_coordinates(name):
    header = tan_header(SHAPE, **({"CRVAL1": 50.0, "CRVAL2": 30.0} | FRAMES[name]))
    wcs = WCS(header)
    target = wcs.pixel_to_world(70, 140).icrs
    np.testing.assert_array_equal(cutout(image(header), target.ra, target.dec, 11)["data"], PIXELS[135:146, 65:76])
    np.testing.assert_allclose(
        pixels_to_sky(celestial_wcs(header), 70, 140), (target.ra.deg, target.dec.deg), rtol=0, atol=1e-9
    )
    for axis, angle in enumerate((90 * u.deg, 0 * u.deg)):  # to the east and to the north, of ICRS
        aside = wcs.world_to_pixel(target.directional_offset_by(angle, 1 * u.arcsec))
        np.testing.assert_allclose(sky_axes(wcs, 70, 140)[:, axis], np.subtract(aside, (70, 140)), rtol=0, atol=1e-4)


def test_a_plane_of_another_size_is_left_alone_at_the_edge():
    whole = image().assign(psf=(("psf_y", "psf_x"), da.ones((5, 5))))
    x, y = 3.0, 100.0
    ra, dec = (float(v) for v in whole.galprep.wcs.all_pix2world(x, y, 0))
    with pytest.warns(EdgeWarning):
        cut = cutout(whole, ra, dec, 21)
    assert cut["psf"].shape == (5, 5)
    assert cut["data"].shape == (21, 21)
