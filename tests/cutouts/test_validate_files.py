"""What is wrong with a file is found, said, and said to be wrong; what is right is left in peace."""

import json

import numpy as np
import pytest
from astropy.io import fits
from fields import gaussian, tan_header

from galprep_dask.cutouts import check_psf, validate_files, write_product
from galprep_dask.errors import ParameterError

SHAPE = (101, 121)
RNG = np.random.default_rng(5)
PSF = gaussian((25, 25), 12, 12, 1.0, 1.7)
PSF /= PSF.sum()


def parts(noise=1.0):
    """Image, mask and sigma of a galaxy in the middle, and a neighbour that is masked."""
    light = gaussian(SHAPE, 60, 50, 8000, 4.0) + gaussian(SHAPE, 95, 80, 3000, 3.0)
    image = light + RNG.normal(0, noise, SHAPE)
    mask = np.hypot(*(np.indices(SHAPE) - np.array([80, 95])[:, None, None])) < 14
    return image.astype("f4"), mask, np.full(SHAPE, noise, "f4")


def header(**keywords):
    return tan_header(SHAPE, GAIN=2.5, EXPTIME=300.0, MAGZERO=27.0, BUNIT="adu/s", **keywords)


def by_check(findings):
    found = {}
    for finding in findings:
        if finding.check not in found or finding.level != "ok":
            found[finding.check] = finding
    return found


def levels(findings):
    return {check: finding.level for check, finding in by_check(findings).items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cut.fits"


def write_plain(path, image, mask=None, sigma=None, psf=None, header=None):
    """A file as others write it: planes in order, without names."""
    hdus = [fits.PrimaryHDU(image, header)]
    for plane in (mask, sigma, psf):
        if plane is not None:
            hdus.append(fits.ImageHDU(np.asarray(plane, float)))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def test_our_own_product_has_nothing_to_be_said_of(path):
    image, mask, sigma = parts()
    write_product(path, image, mask=mask, sigma=sigma, psf=PSF, header=header(), ra=150.0, dec=2.0)
    findings = validate_files(path)
    assert {finding.level for finding in findings} == {"ok"}
    found = by_check(findings)
    assert {"shape", "pixels", "wcs", "wcs scale", "target", "gain", "exptime", "zeropoint", "unit", "mask values",
            "mask polarity", "sigma", "noise", "sky level", "psf sides", "psf sum", "psf centre", "psf wings",
            "psf edge", "psf width"} == set(found)  # fmt: skip
    assert found["noise"].value == pytest.approx(1.0, abs=0.03)
    assert found["wcs scale"].value == pytest.approx(0.5)
    assert found["psf width"].value == pytest.approx(4.0, abs=0.3)
    assert found["mask polarity"].file.endswith("cut.fits[1]")
    assert json.dumps([finding.as_dict() for finding in findings])


@pytest.mark.parametrize(
    ("factor", "level"), [(0.4, "error"), (0.7, "warning"), (1.0, "ok"), (1.4, "warning"), (4.0, "error")]
)
def test_sigma_is_compared_with_the_noise_that_there_is(path, factor, level):
    image, mask, sigma = parts(noise=3.0)
    write_plain(path, image, mask, sigma * factor, header=header())
    found = by_check(validate_files(path))["noise"]
    assert found.level == level
    assert found.value == pytest.approx(1 / factor, rel=0.03)
    assert ("multiply by" in found.advice) == (level != "ok")


def test_noise_is_measured_whatever_is_under_the_mask(path):
    image, mask, sigma = parts()
    ratios = []
    for value in (0.0, 1e30, np.nan):
        write_plain(path, np.where(mask, value, image), mask, np.where(mask, value, sigma), header=header())
        ratios.append(by_check(validate_files(path))["noise"].value)
    assert ratios[0] == ratios[1] == ratios[2]


def test_sky_that_was_left_in(path):
    image, mask, sigma = parts()
    write_plain(path, image + 2.0, mask, sigma, header=header())
    found = by_check(validate_files(path))["sky level"]
    assert found.level == "warning"
    assert found.value == pytest.approx(2.0, abs=0.15)


def test_pixels_that_are_not_finite(path):
    image, mask, sigma = parts()
    image[80, 95] = np.nan
    write_plain(path, image, mask, sigma, header=header())
    assert levels(validate_files(path))["pixels"] == "warning"
    image[2, 3] = np.inf
    write_plain(path, image, mask, sigma, header=header())
    found = by_check(validate_files(path))["pixels"]
    assert (found.level, found.value) == ("error", 1)
    write_plain(path, np.zeros(SHAPE), mask, sigma, header=header())
    assert levels(validate_files(path))["pixels"] == "error"


@pytest.mark.parametrize(
    ("change", "check", "level"),
    [
        (lambda mask: 1 - mask, "mask polarity", "error"),
        (lambda mask: np.ones(SHAPE), "mask polarity", "error"),
        (lambda mask: mask | (np.hypot(*(np.indices(SHAPE) - np.array([50, 60])[:, None, None])) < 9),
         "mask polarity", "warning"),
        (lambda mask: mask * 7.0, "mask values", "warning"),
        (lambda mask: np.where(mask, np.nan, 0), "mask values", "error"),
        (lambda mask: np.zeros(SHAPE), "mask polarity", "ok"),
    ],
    ids=["inverted", "all", "target", "flags", "nan", "empty"],
)  # fmt: skip
def test_masks(path, change, check, level):
    image, mask, sigma = parts()
    write_plain(path, image, change(mask), sigma, header=header())
    assert levels(validate_files(path))[check] == level


def test_sigma_pixels_that_cannot_be_divided_by(path):
    image, mask, sigma = parts()
    sigma[80, 95] = 0
    write_plain(path, image, mask, sigma, header=header())
    assert levels(validate_files(path))["sigma"] == "warning"
    sigma[3, 4], sigma[5, 6] = -1, np.nan
    write_plain(path, image, mask, sigma, header=header())
    found = by_check(validate_files(path))["sigma"]
    assert (found.level, found.value) == ("error", 2)


def test_planes_of_other_shapes(path):
    image, mask, sigma = parts()
    write_plain(path, image, mask[1:], sigma[:, 2:], header=header())
    wrong = [f for f in validate_files(path) if f.check == "shape" and f.level == "error"]
    assert [f.found for f in wrong] == [
        "the mask has 121 x 100 px, the image 121 x 101 px", "the sigma has 119 x 101 px, the image 121 x 101 px",
    ]  # fmt: skip


def test_what_is_not_there_is_said(path):
    image, _, _ = parts()
    write_plain(path, image)
    found = levels(validate_files(path))
    assert found == {
        "shape": "ok", "pixels": "ok", "wcs": "error", "target": "note", "gain": "warning", "exptime": "warning",
        "zeropoint": "note", "unit": "note", "mask": "warning", "sigma": "warning", "sky level": "ok", "psf": "note",
    }  # fmt: skip


def test_coordinates(path):
    image, mask, sigma = parts()

    def check(header):
        write_plain(path, image, mask, sigma, header=header)
        return levels(validate_files(path))

    assert check(header())["wcs scale"] == "ok"
    without = header()
    del without["CTYPE1"], without["CTYPE2"]
    assert check(without)["wcs"] == "error"
    assert check(header(PIXSCALE=0.3))["wcs scale"] == "warning"
    broken = header(PC1_1=-0.645, PC2_2=0.645, CDELT1=0.5 / 3600, CDELT2=0.5 / 3600)
    for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        del broken[key]
    assert check(broken)["wcs scale"] == "error"
    broken.update(PC1_1=-1.0, PC2_2=1.0)
    assert check(broken)["wcs scale"] == "ok"
    broken.update(PC1_1=-1.4e-4, PC2_2=1.4e-4, CDELT1=1.0, CDELT2=1.0)
    assert check(broken)["wcs scale"] == "ok"
    broken.update(CDELT1=1.0, PC2_2=2.8e-4)
    assert check(broken)["wcs scale"] == "warning"  # not square
    assert check(header(A_ORDER=2, A_2_0=1e-5, B_ORDER=2))["wcs"] == "warning"
    assert check(header(RA_TARG=150.0, DEC_TARG=2.0))["target"] == "ok"
    assert check(header(RA_TARG=2.0, DEC_TARG=89.0))["target"] == "warning"
    assert check(header(RA_TARG=151.0, DEC_TARG=2.0, GPVERS="0.1"))["target"] == "error"


def test_planes_in_files_of_their_own(tmp_path):
    image, mask, sigma = parts()
    names = {"m31.fits": image, "m31_mask.fits": mask.astype("i8"), "m31_err.fits": sigma, "anything.fits": PSF}
    for name, pixels in names.items():
        fits.PrimaryHDU(pixels, header() if name == "m31.fits" else None).writeto(tmp_path / name)
    found = by_check(validate_files([tmp_path / name for name in names]))
    assert {finding.level for finding in found.values()} == {"ok", "note"}
    assert found["noise"].value == pytest.approx(1, abs=0.03)
    assert found["noise"].file.endswith("m31_err.fits[0]")
    assert found["psf sum"].file.endswith("anything.fits[0]")
    # The same, under names that say nothing.
    for old, new in (("m31_mask", "a"), ("m31_err", "b"), ("anything", "c")):
        (tmp_path / f"{old}.fits").rename(tmp_path / f"{new}.fits")
    given = {"mask": tmp_path / "a.fits", "sigma": tmp_path / "b.fits", "psf": tmp_path / "c.fits"}
    again = by_check(validate_files([tmp_path / "m31.fits"], **given))
    assert {check: f.value for check, f in again.items()} == {check: f.value for check, f in found.items()}


def test_a_mask_that_fits_no_image_named(tmp_path):
    image, mask, _ = parts()
    fits.PrimaryHDU(image, header()).writeto(tmp_path / "sci.fits")
    fits.PrimaryHDU(mask[1:].astype("u1")).writeto(tmp_path / "mask.fits")
    found = by_check(validate_files([tmp_path / "sci.fits", tmp_path / "mask.fits"]))
    assert found["shape"].level == "error"
    assert "no image named has" in found["shape"].found


def test_weights_are_no_sigma(tmp_path):
    image, mask, sigma = parts()
    hdus = [fits.PrimaryHDU(image, header()), fits.ImageHDU(mask.astype("u1"), name="MASK"),
            fits.ImageHDU(1 / sigma**2, name="WHT"), fits.ImageHDU(image, name="CHI2")]  # fmt: skip
    fits.HDUList(hdus).writeto(tmp_path / "cut.fits")
    found = by_check(validate_files(tmp_path / "cut.fits"))
    assert found["sigma"].level == "error"
    assert "1 / sqrt(weight)" in found["sigma"].advice


def test_psf_files_with_a_table_and_its_errors(tmp_path):
    hdus = [fits.PrimaryHDU(PSF.astype("f4")), fits.BinTableHDU.from_columns([fits.Column("x", "E", array=[1.0])]),
            fits.ImageHDU(PSF * 0.01)]  # fmt: skip
    fits.HDUList(hdus).writeto(tmp_path / "star.fits")
    found = validate_files(tmp_path / "star.fits")
    assert {finding.check.split()[0] for finding in found} == {"psf", "role"}
    assert {finding.level for finding in found} == {"ok", "note"}


@pytest.mark.parametrize(
    ("psf", "check", "level"),
    [
        (PSF, "psf sum", "ok"),
        (PSF[1:], "psf sides", "warning"),
        (PSF * 1.0005, "psf sum", "warning"),
        (PSF * 15, "psf sum", "error"),
        (np.roll(PSF, 1, 1), "psf centre", "error"),
        (gaussian((25, 25), 12.1, 12, 1.0, 1.7), "psf centre", "warning"),
        (gaussian((25, 25), 12.004, 12, 1.0, 1.7), "psf centre", "ok"),
        (PSF - 2e-4, "psf wings", "warning"),
        (gaussian((25, 25), 12, 12, 1.0, 8.0), "psf edge", "warning"),
        (np.where(PSF > 1e-4, PSF, 0), "psf edge", "note"),
        (np.where(PSF > 0.05, np.nan, PSF), "psf pixels", "error"),
        (-PSF, "psf pixels", "error"),
        (np.zeros((3, 5, 5)), "psf pixels", "error"),
    ],
)
def test_psfs(psf, check, level):
    assert {finding.check: finding.level for finding in check_psf(psf)}[check] == level


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.fits").write_text("no FITS file")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    image, mask, sigma = parts()
    good = write_product(tmp_path / "good.fits", image, mask=mask, sigma=sigma, header=header())
    whole = good.read_bytes()
    (tmp_path / "cut_off.fits").write_bytes(whole[:-4000])
    names = ["text.fits", "empty.fits", "nowhere.fits", "cut_off.fits", "good.fits"]
    findings = validate_files([tmp_path / name for name in names])
    files = [finding for finding in findings if finding.check == "file"]
    assert [finding.file.rsplit("/", 1)[1] for finding in files] == names[:-1]
    words = ("cannot be read as FITS", "holds no image", "there is no file", "damaged")
    for finding, said in zip(files, words, strict=True):
        assert said in finding.found
    assert by_check(findings)["noise"].level == "ok"
    with pytest.raises(ParameterError, match="no file to check"):
        validate_files([])


def test_a_cube_is_no_cutout(path):
    fits.PrimaryHDU(np.zeros((3, 20, 20), "f4")).writeto(path)
    assert levels(validate_files(path)) == {"shape": "error"}


def test_a_cutout_that_its_galaxy_fills(path):
    image = gaussian((15, 15), 7, 7, 1e5, 4.0)
    write_plain(path, image, np.zeros((15, 15)), np.ones((15, 15)))
    found = by_check(validate_files(path))["noise"]
    assert found.level != "ok"


@pytest.mark.shared_data
def test_example_files_of_galfits(shared_data):
    folder = shared_data / "galfits_j0056"

    def check(name):
        return by_check(validate_files(folder / name))

    sdss, twomass, galex = (check(f"{band}_cut.fits") for band in ("sdssr", "tmassJ", "galexnuv"))
    for found in (sdss, twomass, galex):
        assert found["wcs"].level == "error"
        assert "CTYPE" in found["wcs"].found
    assert (sdss["noise"].level, round(sdss["noise"].value, 2)) == ("warning", 1.67)
    assert (twomass["noise"].level, round(twomass["noise"].value, 3)) == ("error", 0.054)
    assert galex["noise"].level == "warning"
    assert galex["noise"].value > 1.5

    sdss, twomass, galex = (check(f"{band}_psf.fits") for band in ("sdssr", "tmassJ", "galexnuv"))
    assert (galex["psf sum"].level, round(galex["psf sum"].value, 2)) == ("error", 15.3)
    assert (twomass["psf sum"].level, sdss["psf sum"].level) == ("ok", "ok")
    for found, level, away in ((sdss, "warning", 0.025), (twomass, "error", 1.028), (galex, "error", 1.397)):
        assert found["psf centre"].level == level
        assert found["psf centre"].value == pytest.approx(away, abs=0.001)
    assert twomass["psf wings"].level == "warning"


@pytest.mark.shared_data
@pytest.mark.parametrize(("band", "scale", "said"), [("200", 0.0129, "0.0200"), ("444", 0.0258, "0.0400")])
def test_example_files_of_jwst(shared_data, band, scale, said):
    folder = shared_data / "jwst_egs_40"
    names = [f"f{band}w.fits", f"f{band}w_mask.fits", f"f{band}w_err.fits", f"F{band}W_hybrid.fits"]
    found = by_check(validate_files([folder / name for name in names]))
    assert found["wcs scale"].level == "error"
    assert found["wcs scale"].value == pytest.approx(scale, abs=3e-4)
    assert f"says {said}" in found["wcs scale"].found
    assert found["mask values"].level == "ok"
    assert found["sigma"].level == "ok"
    assert 1.0 < found["noise"].value < 1.3
    assert found["psf centre"].level == "warning"
    assert found["psf sum"].level == "ok"


@pytest.mark.shared_data
def test_example_files_of_kids(shared_data):
    names = ("fitim", "mskim", "sigma", "psfim", "segim")
    findings = validate_files([shared_data / f"kids_g279148/G279148{name}.fits" for name in names])
    found = by_check(findings)
    assert found["noise"].level == "ok"
    assert found["wcs"].level == "error"
    assert (found["psf wings"].level, round(found["psf wings"].value, 3)) == ("warning", -0.158)
    assert (found["psf sum"].level, round(found["psf sum"].value, 2)) == ("error", 1.22)
    assert found["role"].file.endswith("segim.fits[0]")


@pytest.mark.shared_data
def test_drizzled_hubble_image_has_a_sigma_above_its_scatter(shared_data):
    names = [f"hst_xdf_f160w/xdf_hst_wfc3ir_60mas_f160w_{kind}.fits" for kind in ("sci", "rms")]
    found = by_check(validate_files([shared_data / name for name in names]))["noise"]
    assert (found.level, round(found.value, 2)) == ("warning", 0.48)
    assert "correlated" in found.advice
