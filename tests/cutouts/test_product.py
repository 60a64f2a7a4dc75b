"""The cutout file: what a fitting code may rely on."""

import hashlib
import io
import itertools
import json
import os
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from concurrency import run_together
from fields import gaussian, tan_header

from galprep_dask import make_image, open_image, write_image
from galprep_dask.cutouts import read_product, write_product
from galprep_dask.errors import (
    HDUError,
    ImageFileError,
    ImageNotFoundError,
    ImageShapeError,
    NoGoodPixelsError,
    OutputError,
    OutputExistsError,
    ParameterError,
    PSFWarning,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(21, 25)).astype("f4")
SIGMA = RNG.uniform(0.5, 2, size=(21, 25)).astype("f4")
MASK = RNG.random((21, 25)) < 0.1
PSF = gaussian((25, 25), 12, 12, 1.0, 1.7)
PSF /= PSF.sum()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cut.fits"


def test_hdus_in_the_order_that_galfits_is_pointed_at(path):
    psf, model = PSF, IMAGE * 2
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
    write_product(path, IMAGE, header=tan_header((21, 25), RA="10:00:00", DEC="+02:00:00"), ra=150.0, dec=2.0)
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


def test_a_dataset_brings_what_it_knows(tmp_path, path):
    header = tan_header((21, 25), GAIN=9.0, FILTER="r")
    image = make_image(
        IMAGE, mask=MASK, sigma=SIGMA, header=header, unit="adu/s", gain=2.5, exptime=300.0, zeropoint=27.0, chunks=7
    )
    before = {name: plane.values.copy() for name, plane in image.data_vars.items()}
    write_product(path, image, psf=PSF, model=image["data"] * 2, ra=150.0, dec=2.0)
    header = fits.getheader(path)
    found = [header[key] for key in ("BUNIT", "GAIN", "EXPTIME", "MAGZERO", "FILTER", "RA_TARG", "GPNBAD")]
    assert found == ["adu/s", 2.5, 300.0, 27.0, "r", 150.0, MASK.sum()]
    again = read_product(path)
    assert set(again.data_vars) == {"data", "mask", "sigma", "psf", "model"}
    for name, expected in {**before, "psf": PSF.astype("f4"), "model": IMAGE * 2}.items():
        np.testing.assert_array_equal(again[name], expected)
    assert again["psf"].dims == ("psf_y", "psf_x")
    assert {name: again.attrs[name] for name in ("unit", "gain", "exptime", "zeropoint", "hdu")} == {
        "unit": "adu/s", "gain": 2.5, "exptime": 300.0, "zeropoint": 27.0, "hdu": 0,
    }  # fmt: skip
    np.testing.assert_allclose(again.galprep.wcs.all_world2pix(150.0, 2.0, 0), [12, 10], atol=1e-9)
    for name, plane in image.data_vars.items():
        np.testing.assert_array_equal(plane, before[name])

    image.galprep.write_product(tmp_path / "again.fits", psf=PSF, model=image["data"] * 2, ra=150.0, dec=2.0)
    assert (tmp_path / "again.fits").read_bytes() == path.read_bytes()

    # What is passed as well takes the place of the Dataset's own.
    write_product(path, image, mask=~MASK, sigma=SIGMA * 2, keywords=[("GAIN", 4.0, "")], overwrite=True)
    again = read_product(path)
    np.testing.assert_array_equal(again["mask"], ~MASK)
    np.testing.assert_array_equal(again["sigma"], SIGMA * 2)
    assert again.attrs["gain"] == 4.0


def test_provenance_names_version_parameters_and_input(tmp_path, path):
    mosaic = write_image(make_image(IMAGE, header=tan_header((21, 25))), tmp_path / "mosaic.fits")
    parameters = {
        "order": np.int64(3), "fwhm": 0.9 * u.arcsec, "box": (4, 5), "deblend": True, "catalogue": Path("a/b"),
        "comment": "it's 'long' & more " * 9, "levels": np.arange(3.0), "mask": None,
    }  # fmt: skip
    write_product(path, open_image(mosaic), parameters=parameters)
    header = fits.getheader(path)
    from galprep_dask import __version__

    assert (header["GPVERS"], header["GPINPUT"], header["GPINHDU"]) == (__version__, "mosaic.fits", 0)
    assert header["GPINSIZE"] == mosaic.stat().st_size
    expected = {**parameters, "fwhm": "0.9 arcsec", "box": [4, 5], "catalogue": "a/b", "levels": [0.0, 1.0, 2.0]}
    assert json.loads(header["GPPARAM"]) == expected
    assert header["GPHASH"] == hashlib.sha256(header["GPPARAM"].encode()).hexdigest()[:16]
    known = header["GPHASH"], header["GPINHASH"]

    # The order of parameters is none of their values; another value, and another input, is another hash.
    write_product(path, open_image(mosaic), parameters=dict(reversed(parameters.items())), overwrite=True)
    assert fits.getheader(path)["GPHASH"] == known[0]
    write_image(make_image(IMAGE, header=tan_header((21, 25), OBJECT="other")), mosaic, overwrite=True)
    write_product(path, IMAGE, parameters=parameters | {"order": 4}, source=(mosaic, 0), overwrite=True)
    header = fits.getheader(path)
    assert header["GPINPUT"] == "mosaic.fits"
    assert header["GPHASH"] != known[0]
    assert header["GPINHASH"] != known[1]


@pytest.mark.parametrize("source", ["s3://bucket/field r.fits", "gone.fits", ("store.zarr", 2), "\u03b1.fits"])
def test_input_that_cannot_be_looked_at_is_named(path, source):
    write_product(path, IMAGE, source=source)
    header = fits.getheader(path)
    name = source[0] if isinstance(source, tuple) else source
    assert header["GPINPUT"] == name.rsplit("/", 1)[-1].replace("\u03b1", "\\u03b1")
    assert "GPINHASH" not in header


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path):
    written = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        mosaic = write_image(make_image(IMAGE, sigma=SIGMA, header=tan_header((21, 25))), folder / "mosaic.fits")
        os.utime(mosaic, (1e9, 1e9 + len(written)))
        path = write_product(folder / "cut.fits", open_image(mosaic), psf=PSF, ra=150.0, dec=2.0, parameters={"a": 1})
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_every_hdu_can_be_told_from_a_damaged_one(path):
    write_product(path, IMAGE, mask=MASK, sigma=SIGMA, psf=PSF)
    with fits.open(path, checksum=True) as hdus:  # warns, and so fails, where one is wrong
        assert all({"CHECKSUM", "DATASUM"} <= set(hdu.header) for hdu in hdus)
        for hdu in hdus:
            assert hdu.verify_datasum() == hdu.verify_checksum() == 1


def test_a_psf_is_written_as_it_is_and_measured(path):
    write_product(path, IMAGE, psf=PSF)
    with fits.open(path) as hdus:
        psf, header = hdus["PSF"].data, hdus["PSF"].header
        np.testing.assert_array_equal(psf, PSF.astype("f4"))
        assert abs(header["PSFSUM"] - 1) < 1e-6
        assert abs(header["PSFXOFF"]) < 0.005
        assert abs(header["PSFYOFF"]) < 0.005
        assert all(side % 2 for side in psf.shape)


def test_files_are_those_that_astropy_writes(path):
    """Whatever is in the header: astropy, which lays out a header once for many files, would write the same."""
    header = tan_header((21, 25), OBJECT="old", GAIN=3.0, CRPIX1=10 / 3, LTV1=-4.0)
    header["HIERARCH A LONG KEYWORD"], header["LONGTEXT"] = (1.0, "and its comment"), "it's long " * 20
    header.add_history("made by a telescope")
    for k, name in enumerate(("a target", "it's a name", "long " * 20 + "end")):
        header["CRPIX1"] += k
        write_product(
            path, IMAGE[k:], mask=MASK[k:], sigma=SIGMA[k:], psf=PSF, header=header, ra=150.0, dec=2.0, overwrite=True,
            keywords=[("OBJECT", name, ""), ("GAIN", 1e-7 * k, "[e-/ADU]"), ("HIERARCH ANOTHER LONG ONE", k, ""),
                      ("BUNIT", "nJy", None)], parameters={"k": k, "more": "text" * 50}, history=["cut", "h" * 80],
        )  # fmt: skip
        with fits.open(path) as hdus:
            assert [hdus[0].header[key] for key in ("OBJECT", "GAIN", "CRPIX1")] == [name, 1e-7 * k, header["CRPIX1"]]
            assert hdus["SIGMA"].header["BUNIT"] == "nJy"
            for hdu in hdus:
                hdu.add_checksum(when="")
            again = io.BytesIO()
            hdus.writeto(again, output_verify="exception")
        assert again.getvalue() == path.read_bytes()


@pytest.mark.parametrize(
    ("psf", "said"),
    [
        (PSF[1:], "psf sides: 25 x 24 px"),
        (PSF * 1.01, r"psf sum: 1.01\. Divide it"),
        (gaussian((25, 25), 12.01, 12, 1.0, 1.7), r"psf centre: centroid \+0.0100, .0.0000 px"),
        (PSF * (1 + 2e-6), "psf sum: 1.000002"),
    ],
)
def test_psfs_that_a_fit_would_stumble_over_are_said_and_kept(path, psf, said):
    with pytest.warns(PSFWarning, match=f"cut.fits' as it is, but:\n    {said}"):
        write_product(path, IMAGE, psf=psf)
    np.testing.assert_array_equal(fits.getdata(path, "PSF"), psf.astype("f4"))


@pytest.mark.parametrize("psf", [PSF * np.nan, -PSF, np.zeros((5, 5)), np.where(PSF > 0.05, np.inf, PSF)])
def test_psfs_that_nothing_can_be_convolved_with(path, psf):
    with pytest.raises(ParameterError, match=r"PSF for '.*cut.fits' cannot be used"):
        write_product(path, IMAGE, psf=psf)
    with pytest.raises(ImageShapeError, match=r"PSF for '.*cut.fits' cannot be used: shape \(3, 5, 5\)"):
        write_product(path, IMAGE, psf=np.ones((3, 5, 5)))
    assert not path.exists()


def test_keywords_and_parameters_that_cannot_be_written(path):
    for wrong in ({"keywords": [("NAME", "\u03b1", "")]}, {"history": ["a\nb"]}, {"parameters": {"f": object()}}):
        with pytest.raises(ParameterError, match="cannot be written"):
            write_product(path, IMAGE, **wrong)
    assert os.listdir(path.parent) == []


def test_values_that_single_precision_cannot_hold_are_masked(path):
    image, sigma = IMAGE.astype(float), SIGMA.astype(float)
    image[3, 4], sigma[5, 6], sigma[7, 8] = 1e300, 1e300, 1e-300
    write_product(path, image, sigma=sigma)
    cut = read_product(path)
    assert np.argwhere(cut["mask"].values).tolist() == [[3, 4], [5, 6], [7, 8]]
    assert np.isfinite(cut["sigma"]).all()


def test_products_of_others_are_read_by_order_or_by_name(path):
    planes = [fits.PrimaryHDU(IMAGE), fits.ImageHDU(MASK.astype("f8")), fits.ImageHDU(SIGMA), fits.ImageHDU(PSF)]
    fits.HDUList(planes).writeto(path)
    cut = read_product(path)
    np.testing.assert_array_equal(cut["mask"], MASK)
    np.testing.assert_array_equal(cut["sigma"], SIGMA)
    np.testing.assert_array_equal(cut["psf"], PSF)
    named = [fits.PrimaryHDU(), fits.ImageHDU(SIGMA, name="ERR"), fits.ImageHDU(IMAGE, name="SCI")]
    fits.HDUList(named).writeto(path, overwrite=True)
    cut = read_product(path)
    np.testing.assert_array_equal(cut["data"], IMAGE)
    np.testing.assert_array_equal(cut["sigma"], SIGMA)
    assert set(cut.data_vars) == {"data", "sigma"}


def test_files_that_are_no_products(path):
    with pytest.raises(ImageNotFoundError, match="there is no file"):
        read_product(path)
    path.write_text("no FITS file")
    with pytest.raises(ImageFileError, match="cannot be read as FITS"):
        read_product(path)
    fits.PrimaryHDU().writeto(path, overwrite=True)
    with pytest.raises(HDUError, match="holds no image"):
        read_product(path)
    fits.PrimaryHDU(MASK.astype("u1")).writeto(path, overwrite=True)
    with pytest.raises(HDUError, match="holds no cutout image, but HDU 0: mask"):
        read_product(path)
    fits.HDUList([fits.PrimaryHDU(IMAGE), fits.ImageHDU(MASK[1:].astype("u1"))]).writeto(path, overwrite=True)
    with pytest.raises(ImageShapeError, match="mask has shape"):
        read_product(path)


def test_threads_may_share_a_psf(tmp_path):
    """Astropy swaps the bytes of an array while it writes it; a PSF of many targets is written by several threads."""
    psf, counter = PSF.astype("f4"), itertools.count()

    def write():
        for _ in range(8):
            write_product(tmp_path / f"{next(counter)}.fits", IMAGE, header=tan_header(IMAGE.shape), psf=psf)
        return True

    run_together(write, 4)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    np.testing.assert_array_equal(psf, PSF.astype("f4"))
