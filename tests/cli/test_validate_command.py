"""``galprep validate``, as a user runs it."""

import json

import command_line
import numpy as np
import pytest
from astropy.io import fits
from fields import gaussian, tan_header

from galprep_dask.cutouts import write_product


def galprep(*arguments, cwd):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.setenv("NO_COLOR", "1")
        return command_line.galprep("validate", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cutout that is right, one whose sigma is far off, a PSF off its centre, and what is no FITS file."""
    folder = tmp_path_factory.mktemp("products")
    shape = (81, 81)
    image = np.random.default_rng(0).normal(0, 1, shape) + gaussian(shape, 40, 40, 5000, 4.0)
    psf = gaussian((25, 25), 12, 12, 1.0, 1.7)
    psf /= psf.sum()
    header = tan_header(shape, GAIN=2.0, EXPTIME=10.0, MAGZERO=25.0, BUNIT="adu/s")
    target = {"ra": 150.0, "dec": 2.0, "header": header, "psf": psf}
    write_product(folder / "good.fits", image, sigma=np.ones(shape), **target)
    write_product(folder / "off.fits", image, sigma=np.full(shape, 18.0), **target)
    fits.PrimaryHDU(np.roll(psf, 1, axis=1)).writeto(folder / "psf[a].fits")
    (folder / "notes.fits").write_text("mine")
    return folder


def test_table_and_status(folder):
    done = galprep("good.fits", cwd=folder)
    assert (done.status, done.err) == (0, "")
    assert "std(data / sigma) is 1.0" in done.out
    assert "0 errors, 0 warnings, 0 notes" in done.out

    done = galprep("-q", "good.fits", "off.fits", "psf[a].fits", cwd=folder)
    assert (done.status, done.err) == (1, "")
    for said in ("std(data / sigma) is 0.0", "multiply by 0.05", "off.fits[2]", "psf[a].fits", "centroid +1.0000"):
        assert said in done.out
    assert "good.fits" not in done.out  # nothing is to be said of it
    assert "2 errors" in done.out


def test_json(folder):
    done = galprep("--json", "good.fits", "off.fits", "psf[a].fits", cwd=folder)
    report = json.loads(done.out)
    assert report["status"] == done.status == 1
    wrong = [(f["check"], f["file"]) for f in report["findings"] if f["level"] == "error"]
    assert wrong == [("noise", "off.fits[2]"), ("psf centre", "psf[a].fits[0]")]
    assert report["counts"]["error"] == 2
    noise = next(f for f in report["findings"] if f["check"] == "noise" and f["level"] == "error")
    assert 0.04 < noise["value"] < 0.07


def test_bad_input_is_status_2_and_hides_nothing_else(folder):
    for arguments in (["notes.fits"], ["nowhere.fits"], ["nowhere.fits", "off.fits"]):
        done = galprep(*arguments, cwd=folder)
        assert done.status == 2
        assert done.err == ""
        assert "Traceback" not in done.out
    assert "there is no file" in done.out
    assert "std(data / sigma) is 0.0" in done.out
    done = galprep(cwd=folder)
    assert done.status == 2
    assert done.err == "galprep: no file to check: name one or more FITS files.\n"


def test_planes_named_by_options(folder):
    with fits.open(folder / "good.fits") as hdus:
        for n, name in enumerate("abcd"):
            fits.PrimaryHDU(hdus[n].data, hdus[0].header if n == 0 else None).writeto(folder / f"{name}.fits")
    done = galprep("--image", "a.fits", "--mask", "b.fits", "--sigma", "c.fits", "--psf", "d.fits", cwd=folder)
    assert (done.status, done.err) == (0, "")
    assert "0 errors, 0 warnings, 0 notes" in done.out
