"""``galprep sky`` and ``galprep detect``: the same answers as the functions, in files."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from command_line import Terminal, galprep
from fields import gaussian, tan_header
from typer.testing import CliRunner

import galprep_dask as gp
from galprep_dask.cli import app
from galprep_dask.errors import GalprepError
from galprep_dask.segmentation import detect_sources, detect_threshold, smooth, source_catalog
from galprep_dask.sky import fit_polynomial_sky, fit_sky_between_sources


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    rng = np.random.default_rng(5)
    shape = (300, 340)
    image = rng.normal(0, 1, shape) + np.linspace(100, 102, shape[1])
    for x, y in rng.uniform(20, 280, (25, 2)):
        image += gaussian(shape, x, y, rng.uniform(300, 3000), 1.5)
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.fits"
    fits.writeto(path, image.astype("f4"), tan_header(shape, BUNIT="adu"))
    return path


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, GalprepError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def test_sky_writes_what_the_functions_give(mosaic, tmp_path):
    out, sky_file, mask_file = (tmp_path / name for name in ("out.fits", "sky.fits", "mask.fits"))
    done = run("sky", mosaic, "-o", out, "--order", 1, "--write-sky", sky_file, "--write-mask", mask_file, "--json")
    image = gp.open_image(mosaic)
    model, masked = fit_sky_between_sources(image["data"], fit=lambda d, m: fit_polynomial_sky(d, m, 1), fwhm=3.0)
    expected = image.galprep.subtract_sky(model)
    np.testing.assert_array_equal(fits.getdata(out), expected["data"])
    np.testing.assert_array_equal(fits.getdata(mask_file), np.asarray(masked, dtype="u1"))
    np.testing.assert_allclose(fits.getdata(sky_file) + fits.getdata(out), fits.getdata(mosaic), atol=2e-5)
    assert "BUNIT" not in fits.getheader(mask_file)
    for file in (out, sky_file, mask_file):  # where it comes from
        header = fits.getheader(file)
        assert (header["GPVERS"], header["GPINPUT"], header["GPINHDU"]) == (gp.__version__, mosaic.name, 0)
        assert json.loads(header["GPPARAM"])["sky"]["order"] == 1
        assert len(header["GPHASH"]) == len(header["GPINHASH"]) == 16
    result = json.loads(done.stdout)
    assert result["model"] == "PolynomialSky"
    assert result["rms"] == pytest.approx(1.0, abs=0.03)
    assert result["masked"] == float(masked.mean())
    assert result["files"] == [str(out), str(sky_file), str(mask_file)]


@pytest.mark.parametrize("model", ["mesh", "piecewise", "median", "mean", "auto"])
def test_other_skies(mosaic, tmp_path, model):
    done = run("sky", mosaic, "-o", tmp_path / "out.fits", "--model", model, "--box-size", 60, "--json")
    slope = {"median": 2.0, "mean": 2.0}.get(model, 0.0)
    left = fits.getdata(tmp_path / "out.fits")
    found = np.median(left[:, -40:]) - np.median(left[:, :40])
    assert found == pytest.approx(slope * 300 / 340, abs=0.5)
    assert json.loads(done.stdout)["masked"] > 0.02


def test_detect_writes_what_the_functions_give(mosaic, tmp_path):
    out, labels = tmp_path / "out.fits", tmp_path / "labels.fits"
    run("sky", mosaic, "-o", out, "--order", 1)
    done = run("detect", out, "-o", tmp_path / "sources.ecsv", "--segmentation", labels, "--n-sigma", 2.5, "--json")
    image = gp.open_image(out)
    level = detect_threshold(image["data"], 2.5)
    found = detect_sources(smooth(image["data"], 3.0), level)
    expected = source_catalog(image["data"], found, wcs=image.galprep.wcs)
    table = QTable.read(tmp_path / "sources.ecsv")
    np.testing.assert_array_equal(fits.getdata(labels), found.data)
    assert len(table) == found.n_labels >= 20
    np.testing.assert_array_equal(table["x_centroid"], expected["x_centroid"])
    np.testing.assert_array_equal(table["ra"], expected["sky_centroid"].ra)
    assert json.loads(done.stdout)["threshold"] == level
    for told in (table.meta, fits.getheader(labels)):  # where it comes from
        assert (told["GPVERS"], told["GPINPUT"], told["GPINHDU"]) == (gp.__version__, "out.fits", 0)
        assert json.loads(told["GPPARAM"])["detect"]["n_sigma"] == 2.5
        assert len(told["GPHASH"]) == len(told["GPINHASH"]) == 16
    assert json.loads(fits.getheader(labels)["GPPARAM"]).keys() == {"detect"}  # the input says how its sky was taken


def test_detect_deblends_and_takes_a_sky_off(mosaic, tmp_path):
    whole = run("detect", mosaic, "-o", tmp_path / "a.parquet", "--box-size", 60, "--json")
    split = run("detect", mosaic, "-o", tmp_path / "b.parquet", "--box-size", 60, "--deblend", "--json")
    counts = [json.loads(done.stdout)["sources"] for done in (whole, split)]
    table = QTable.read(tmp_path / "a.parquet")
    assert len(table) == counts[0]
    assert json.loads(table.meta["GPPARAM"])["detect"]["box_size"] == 60
    run("detect", mosaic, "-o", tmp_path / "a.fits", "--box-size", 60)
    assert QTable.read(tmp_path / "a.fits").meta["GPPARAM"] == table.meta["GPPARAM"]
    assert 20 <= counts[0] <= counts[1]


def test_workers_give_the_same_files_and_their_tasks_are_counted(mosaic, tmp_path):
    for workers, name in ((0, "threads.fits"), (2, "workers.fits")):
        done = galprep(
            "detect", mosaic, "-o", "s.fits", "--segmentation", name, "--box-size", 60, "--workers", workers,
            "--overwrite", cwd=tmp_path, err=Terminal(),
        )  # fmt: skip
        assert done.status == 0, done.err
        assert "catalogue" in done.err
        assert "100%" in done.err
    np.testing.assert_array_equal(fits.getdata(tmp_path / "threads.fits"), fits.getdata(tmp_path / "workers.fits"))


def test_nothing_is_overwritten_unasked(mosaic, tmp_path):
    out = tmp_path / "sources.fits"
    out.write_text("precious")
    with pytest.raises(GalprepError, match=r"sources\.fits.*exists"):
        run("detect", mosaic, "-o", out)
    with pytest.raises(GalprepError, match=r"sources\.fits.*exists"):
        run("sky", mosaic, "-o", out)
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", 1, "--scheduler", "tcp://127.0.0.1:1"], "give one of them"),
        (["--scheduler", "127.0.0.1:1:2"], "no dask scheduler"),
    ],
)
def test_schedulers_that_make_no_sense(mosaic, tmp_path, arguments, message):
    with pytest.raises(GalprepError, match=message):
        run("sky", mosaic, "-o", tmp_path / "out.fits", *arguments)
    assert not (tmp_path / "out.fits").exists()
