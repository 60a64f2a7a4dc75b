"""The cutout file: what a fitting code may rely on."""

import os

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fields import tan_header

from galprep_dask import open_image
from galprep_dask.cutouts import write_product
from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, OutputError, OutputExistsError, ParameterError

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(21, 25)).astype("f4")
SIGMA = RNG.uniform(0.5, 2, size=(21, 25)).astype("f4")
MASK = RNG.random((21, 25)) < 0.1


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cut.fits"


def test_hdus_in_the_order_that_galfits_is_pointed_at(path):
    psf, model = np.full((5, 5), 0.04), IMAGE * 2
    write_product(path, IMAGE, mask=MASK, sigma=SIGMA, psf=psf, model=model)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "MASK", "SIGMA", "PSF", "MODEL"]
        for hdu, expected in zip(hdus, (IMAGE, MASK, SIGMA, psf.astype("f4"), model), strict=True):
            np.testing.assert_array_equal(hdu.data, expected)
        assert [hdu.data.dtype.str for hdu in hdus] == [">f4", "|u1", ">f4", ">f4", ">f4"]


def test_what_is_not_finite_is_masked_and_never_written(path):
    image, sigma = IMAGE.copy(), SIGMA.copy()
    image[2, 3], image[4, 5] = np.nan, np.inf
    sigma[6, 7], sigma[8, 9], sigma[10, 11] = np.nan, 0.0, -1.0
    for array in (image, sigma):
        array.flags.writeable = False
    write_product(path, image, mask=MASK, sigma=sigma)
    expected = MASK.copy()
    for pixel in ((2, 3), (4, 5), (6, 7), (8, 9), (10, 11)):
        expected[pixel] = True
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(hdus[1].data.astype(bool), expected)
        assert np.isfinite(hdus[0].data).all()
        assert hdus[0].data[2, 3] == hdus[0].data[4, 5] == 0
        assert np.isfinite(hdus[2].data).all()
        assert (hdus[2].data > 0).all()
        np.testing.assert_array_equal(hdus[0].data[~expected], image[~expected])
        np.testing.assert_array_equal(hdus[2].data[~expected], sigma[~expected])


def test_header_has_wcs_target_and_provenance(path):
    header = tan_header((21, 25), BSCALE=2.0, BZERO=5.0, RADECSYS="FK5", EQUINOX=2000.0)
    header.add_history("made by a telescope")
    write_product(
        path, IMAGE, sigma=SIGMA, header=header, ra=150.0, dec=2.0, history=["cut"],
        keywords=[("EXPTIME", 30.0, "[s]"), ("GAIN", None, "unknown")],
    )  # fmt: skip
    written = fits.getheader(path)
    np.testing.assert_allclose(WCS(written).all_world2pix(150.0, 2.0, 0), [12, 10], atol=1e-9)
    assert (written["RA_TARG"], written["DEC_TARG"], written["EXPTIME"]) == (150.0, 2.0, 30.0)
    assert (written["RA"], written["DEC"]) == (150.0, 2.0)
    assert "GAIN" not in written
    assert "BZERO" not in written
    assert written["RADESYS"] == "FK5"
    assert list(written["HISTORY"]) == ["made by a telescope", "cut"]
    assert written["GPVERS"]
    np.testing.assert_array_equal(fits.getdata(path), IMAGE)
    assert header["BSCALE"] == 2.0


def test_pointing_of_the_telescope_is_kept(path):
    write_product(path, IMAGE, header=fits.Header({"RA": "10:00:00", "DEC": "+02:00:00"}), ra=150.0, dec=2.0)
    written = fits.getheader(path)
    assert (written["RA"], written["RA_TARG"]) == ("10:00:00", 150.0)


def test_product_opens_as_an_image_with_its_planes(path):
    write_product(path, IMAGE, mask=MASK, sigma=SIGMA, header=tan_header((21, 25)))
    image = open_image(path)
    np.testing.assert_array_equal(image["data"], IMAGE)
    np.testing.assert_array_equal(image["mask"], MASK)
    np.testing.assert_array_equal(image["sigma"], SIGMA)


def test_lazy_arrays_are_taken(path):
    write_product(path, da.from_array(IMAGE), mask=da.from_array(MASK), sigma=da.from_array(SIGMA))
    np.testing.assert_array_equal(fits.getdata(path, 2), SIGMA)


def test_a_file_that_exists_is_kept_unless_told_otherwise(path):
    write_product(path, IMAGE)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match=r"cut.fits' exists. Pass overwrite=True"):
        write_product(path, IMAGE + 1)
    assert path.read_bytes() == before
    write_product(path, IMAGE + 1, overwrite=True)
    np.testing.assert_array_equal(fits.getdata(path), IMAGE + 1)
    assert os.listdir(path.parent) == ["cut.fits"]


def test_unusable_input_leaves_no_file(path):
    with pytest.raises(NoGoodPixelsError, match="nothing is left to be fitted"):
        write_product(path, IMAGE, mask=np.ones_like(MASK))
    with pytest.raises(NoGoodPixelsError, match="no pixel of sigma"):
        write_product(path, IMAGE, sigma=np.zeros_like(SIGMA))
    for name in ("mask", "sigma", "model"):
        with pytest.raises(ImageShapeError, match=rf"{name} has shape \(3, 4\), but the image has \(21, 25\)"):
            write_product(path, IMAGE, **{name: np.ones((3, 4))})
    with pytest.raises(ImageShapeError, match="two-dimensional"):
        write_product(path, np.ones((3, 4, 5)))
    with pytest.raises(OutputError, match="no directory"):
        write_product(path.parent / "missing" / "cut.fits", IMAGE)
    with pytest.raises(ParameterError, match="upload"):
        write_product("s3://bucket/cut.fits", IMAGE)
    assert not path.exists()
    assert os.listdir(path.parent) == []
