"""Step 3: every parameter of ``write_imcut``."""

import json

import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from fields import SCALE, tan_header
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask.errors import (
    ImageShapeError,
    MissingWCSError,
    NoWCSWarning,
    ParameterError,
    TargetOutsideError,
)


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


@pytest.mark.parametrize(("ra", "dec"), [(DEC, RA), (np.nan, DEC), (RA, None), ("10h", DEC)])
def test_positions_that_are_none(cut, tmp_path, ra, dec):
    with pytest.raises(ParameterError, match="is no position in degrees"):
        cut.write_imcut(ra, dec, tmp_path / "cut.fits")
    assert not list(tmp_path.glob("cut*"))


def test_target_that_is_not_in_the_cutout(cut, tmp_path):
    with pytest.raises(TargetOutsideError, match="of the cutout, which has 61 x 61"):
        cut.write_imcut(RA + 0.01, DEC, tmp_path / "cut.fits")
    # A header that is the cutout's own already would be moved twice.
    cut.write_imcut(RA, DEC, tmp_path / "cut.fits")
    with pytest.raises(TargetOutsideError, match="is header= that of the full image"):
        cut.write_imcut(RA, DEC, tmp_path / "again.fits", header=fits.getheader(tmp_path / "cut.fits"))
    assert not (tmp_path / "again.fits").exists()


def test_header_without_a_wcs(cut, tmp_path):
    """What the first HDU of a file with extensions has."""
    with pytest.raises(MissingWCSError, match="Pass the header of the HDU that holds the image"):
        cut.write_imcut(RA, DEC, tmp_path / "cut.fits", header=fits.PrimaryHDU().header)
    assert not (tmp_path / "cut.fits").exists()


def test_image_without_a_wcs_is_written_without_one(blend, tmp_path):
    blend.cal_sigma_image(1.0)
    blend.img_cut(0, 0, 20.0, referpix=(40, 40))
    with pytest.warns(NoWCSWarning, match="no celestial WCS"):
        blend.write_imcut(10.0, -5.0, tmp_path / "cut.fits", addpixsc=True)
    header = fits.getheader(tmp_path / "cut.fits")
    assert "CTYPE1" not in header
    assert (header["RA_TARG"], header["DEC_TARG"], header["PIXSCALE"]) == (10.0, -5.0, SCALE)


def test_what_is_assigned_is_what_is_written(cut, tmp_path):
    cut.cut_image = cut.cut_image * 2
    cut.cut_mask_image = np.eye(61, dtype=bool)
    cut.cut_sigma_image = da.full((61, 61), 2.2, chunks=20)
    cut.write_imcut(RA * u.deg, DEC * u.deg, str(tmp_path / "cut.fits"))
    with fits.open(tmp_path / "cut.fits") as hdus:
        np.testing.assert_array_equal(hdus[0].data, cut.cut_image)
        np.testing.assert_array_equal(hdus[1].data, np.eye(61))
        np.testing.assert_array_equal(hdus[2].data, np.float32(2.2))
    assert [path.name for path in tmp_path.glob("*cut*")] == ["cut.fits"]


def test_cube_is_no_product(tmp_path):
    img = IM.image(np.ones((3, 30, 30), "f4"), pixel_scales=SCALE)
    img.img_cut(0, 0, 5.0, referpix=(15, 15), IFS=True)
    img.cut_sigma_image = np.ones((21, 21))
    with pytest.raises(ImageShapeError, match="expected a two-dimensional cutout"):
        img.write_imcut(0, 0, tmp_path / "cut.fits")


def test_the_file_says_what_it_was_made_of_and_how(cut, tmp_path):
    first = cut.generate_cutmask(1.5, sdmask=np.zeros(cut.cut_image.shape, bool), npixels=7)
    cut.cut_mask_image = first
    cut.write_imcut(RA, DEC, tmp_path / "a.fits")
    header = fits.getheader(tmp_path / "a.fits")
    calls = json.loads(header["GPPARAM"])
    assert calls["generate_cutmask"]["npixels"] == 7
    assert calls["generate_cutmask"]["sdmask"] == "given"
    assert calls["img_cut"]["ra"] == RA
    cut.generate_cutmask(1.5, sdmask=np.zeros(cut.cut_image.shape, bool), npixels=8)
    cut.write_imcut(RA, DEC, tmp_path / "b.fits")
    assert fits.getheader(tmp_path / "b.fits")["GPHASH"] != header["GPHASH"]
