"""``galprep psf`` and ``galprep cutout``: what the functions give, in files."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from command_line import galprep, write_field
from fields import tan_header

import galprep_dask as gp
from galprep_dask.cutouts import read_product, validate_files
from galprep_dask.image import sky_to_pixel
from galprep_dask.psf import PSFModel, select_stars
from galprep_dask.segmentation import detect_sources, smooth, write_segmentation


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A mosaic minus its sky, and a PSF that varies over it, fitted to the sources of a label image."""
    folder = tmp_path_factory.mktemp("field")
    write_field(folder)
    done = galprep("sky", "mosaic.fits", "--order", "1", "-o", "flat.fits", cwd=folder)
    assert done.status == 0, done.err
    image = gp.open_image(folder / "flat.fits")
    write_segmentation(detect_sources(smooth(image["data"], 3.0), 3.0), folder / "labels.fits")
    done = galprep(
        "psf", "flat.fits", "--sky-model", "none", "--segmentation", "labels.fits", "--size", "25", "--degree", "1",
        "--stars", "stars.ecsv", "--figure", "psf.png", "-o", "psf.fits", "--json", cwd=folder,
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    return folder, json.loads(done.out)


def test_psf_is_that_of_the_field_and_says_how_good(field):
    folder, told = field
    truth = 2.3548 * np.sqrt(1.5**2 + 1 / 12)
    assert told["fwhm"] == pytest.approx(truth, rel=0.02)
    assert told["fwhm_arcsec"] == pytest.approx(0.5 * told["fwhm"])
    assert told["ellipticity"] < 0.02
    assert (told["size"], told["degree"], told["converged"]) == (25, 1, True)
    assert told["stars"] + sum(told["dropped"].values()) == told["sources"] >= 25
    assert told["left_after"]["raw"] == told["sources"]
    assert told["reserved"] >= 5
    assert 0.8 < told["chi2_reserved"] < 1.25
    model = PSFModel.from_fits(folder / "psf.fits")
    assert model.fwhm == told["fwhm"]
    header = fits.getheader(folder / "psf.fits")
    assert (header["GPVERS"], header["GPINPUT"], len(header["GPHASH"])) == (gp.__version__, "flat.fits", 16)
    assert json.loads(header["GPPARAM"])["psf"]["size"] == 25
    assert int(model.stars["used"].sum()) == told["stars"]
    assert (folder / "psf.png").read_bytes().startswith(b"\x89PNG")


def test_table_of_stars_is_that_of_the_function(field):
    folder, told = field
    stars = Table.read(folder / "stars.ecsv")
    image = gp.open_image(folder / "flat.fits")
    expected = select_stars(image["data"], fits.getdata(folder / "labels.fits").astype(int), size=25)
    assert list(stars["used"]) == list(expected["used"])
    assert [str(reason) if reason else "" for reason in stars["reason"].filled("")] == list(expected["reason"])
    np.testing.assert_array_equal(stars["x"], expected["x"])
    assert len(stars) == told["sources"]
    assert np.isfinite(stars["chi2"][stars["used"]]).all()


@pytest.mark.parametrize("position", [("--at", "150.0,2.0"), ("--x", "139.5", "--y", "129.5")])
def test_psf_at_a_position_is_one_image_that_a_fit_can_use(field, tmp_path, position):
    folder, _ = field
    out = tmp_path / "at.fits"
    done = galprep("psf", "flat.fits", "--psf", "psf.fits", *position, "-o", out, "--json", cwd=folder)
    assert (done.status, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["x"], told["y"]) == pytest.approx((139.5, 129.5), abs=1e-6)
    with fits.open(out) as hdus:
        assert len(hdus) == 1
        expected = PSFModel.from_fits(folder / "psf.fits").at(told["x"], told["y"]).astype("f4")
        np.testing.assert_array_equal(hdus[0].data, expected)
        assert (hdus[0].header["PSFX"], hdus[0].header["PSFY"]) == (told["x"], told["y"])
        assert hdus[0].header["GPINPUT"] == "psf.fits"
    assert not [finding for finding in validate_files([str(out)]) if finding.level in ("error", "warning")]


def test_psf_without_stars_says_why(tmp_path):
    noise = np.random.default_rng(0).normal(0, 1, (120, 120)).astype("f4")
    for name, image, said in (("noise.fits", noise, "no sources"), ("zero.fits", 0 * noise, "has no noise")):
        fits.writeto(tmp_path / name, image, tan_header(image.shape))
        done = galprep("psf", name, "--sky-model", "none", "-o", "psf.fits", cwd=tmp_path)
        assert (done.status, done.out) == (2, "")
        assert said in done.err
        assert not (tmp_path / "psf.fits").exists()


def test_only_what_is_in_gaia_is_a_star_where_that_is_asked(field, tmp_path):
    folder, _ = field
    Table({"source_id": [1], "ra": [150.003], "dec": [2.0], "ref_epoch": [2016.0]}).write(tmp_path / "gaia.fits")
    image, header = fits.getdata(folder / "flat.fits"), fits.getheader(folder / "flat.fits")
    header["DATE-OBS"] = "2016-01-01"
    fits.writeto(tmp_path / "dated.fits", image, header)
    arguments = ["psf", "dated.fits", "--sky-model", "none", "-o", "psf.fits", "--gaia-catalog"]
    done = galprep(*arguments, "gaia.fits", cwd=tmp_path)  # of what is no source
    assert (done.status, done.out) == (2, "")
    assert "Gaia" in done.err
    done = galprep(*arguments, "no.fits", cwd=tmp_path)
    assert done.status == 2
    assert "no.fits" in done.err
    assert not (tmp_path / "psf.fits").exists()


# Cutouts --------------------------------------------------------------------------------------------------


def test_cutouts_are_products_with_the_psf_at_each_target(field, tmp_path):
    folder, _ = field
    done = galprep(
        "cutout", "flat.fits", "--targets", "targets.ecsv", "--size", "60", "--psf", "psf.fits", "-o", tmp_path / "new",
        "--json", cwd=folder,
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["cut"], told["failed"]) == (2, 0)
    assert [target["name"] for target in told["targets"]] == ["middle", "../west"]
    assert sorted(told["files"]) == sorted(str(path) for path in (tmp_path / "new").iterdir())
    assert {path.parent for path in tmp_path.rglob("*.fits")} == {tmp_path / "new"}
    model, header = PSFModel.from_fits(folder / "psf.fits"), fits.getheader(folder / "flat.fits")
    whole = fits.getdata(folder / "flat.fits")
    for target in told["targets"]:
        assert (target["nx"], target["ny"], target["n_padded"]) == (120, 120, 0)
        cut = read_product(target["file"])
        x, y = sky_to_pixel(cut.attrs["header"], target["ra"], target["dec"])
        y0, x0 = round(target["y"] - y), round(target["x"] - x)
        np.testing.assert_array_equal(cut["data"], whole[y0 : y0 + 120, x0 : x0 + 120])
        assert cut["mask"].values.any()  # a star
        assert (cut["sigma"].values > 0).all()
        psf = model.at(*sky_to_pixel(header, target["ra"], target["dec"]))
        np.testing.assert_array_equal(cut["psf"], psf.astype("f4"))
        assert not [finding for finding in validate_files([target["file"]]) if finding.level == "error"]
    middle = read_product(told["targets"][0]["file"])
    assert not middle["mask"].values[59:61, 59:61].any()
    assert 0.9 < fits.getheader(told["targets"][0]["file"])["SIGCHK"] < 1.1


def test_targets_that_cannot_be_cut_are_listed_and_status_1(field, tmp_path):
    folder, _ = field
    table = Table({"id": ["in", "out", "nowhere"], "ra": [150.0, 151.0, np.nan], "dec": [2.0, 2.0, 2.0]})
    table.write(tmp_path / "targets.csv")
    arguments = ["cutout", "flat.fits", "--targets", tmp_path / "targets.csv", "--no-sigma", "-o", tmp_path / "new"]
    done = galprep(*arguments, cwd=folder)
    assert (done.status, done.err) == (1, "")
    assert "out: ra=151.0" in done.out
    assert "nowhere: its position is not known" in done.out
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["in.fits"]
    done = galprep(*arguments, "--overwrite", "--json", cwd=folder)
    assert done.status == 1
    assert [target["cut"] for target in json.loads(done.out)["targets"]] == [True, False, False]


def test_planes_given_in_files_and_what_is_missing(field, tmp_path):
    folder, _ = field
    shape, bad = (260, 280), np.zeros((260, 280), "u1")
    bad[120:123, 130:133] = 1
    for name, plane in (("bad", bad), ("weight", np.full(shape, 0.25, "f4")), ("two", np.full(shape, 2, "f4"))):
        fits.writeto(tmp_path / f"{name}.fits", plane)
    one = ["cutout", "flat.fits", "--ra", "150", "--dec", "2", "--no-target-mask", "-o", tmp_path / "new"]
    sigmas = {}
    for option, name in (("--weight", "weight"), ("--rms", "two"), ("--sigma", "two")):
        done = galprep(
            *one, option, tmp_path / f"{name}.fits", "--name", f"a{option}", "--mask", tmp_path / "bad.fits", cwd=folder
        )
        assert done.status == 0, done.err
        assert ("warning" in done.err) == (option != "--sigma")  # of noise that is half of what the map says
        cut = read_product(tmp_path / "new" / f"a{option}.fits")
        assert int(cut["mask"].sum()) == 9
        sigmas[option] = cut["sigma"].values
    np.testing.assert_array_equal(sigmas["--weight"], sigmas["--rms"])
    np.testing.assert_array_equal(sigmas["--sigma"], np.float32(2))
    done = galprep(*one, "--rms", tmp_path / "two.fits", "--sigma", tmp_path / "two.fits", cwd=folder)
    assert (done.status, "give one of them" in done.err) == (2, True)
    fits.writeto(tmp_path / "plain.fits", fits.getdata(folder / "flat.fits"), tan_header(shape))
    done = galprep(*["plain.fits" if word == "flat.fits" else word for word in one], cwd=tmp_path)
    assert done.status == 2
    assert "--gain" in done.err
