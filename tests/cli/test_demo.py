"""``galprep demo`` and ``galprep info``, as a user runs them."""

import os

import command_line
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from fields import tan_header

SHAPE = ("700", "800")


def galprep(*arguments, cwd):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.setenv("NO_COLOR", "1")
        return command_line.galprep(*arguments, cwd=cwd)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = galprep("demo", "--size", *SHAPE, "--seed", "3", cwd=folder)
    assert done.status == 0, done.err
    return folder / "galprep-demo", done


def test_writes_into_its_own_folder_and_lists_every_file(demo):
    output, done = demo
    assert os.listdir(output.parent) == ["galprep-demo"]
    written = sorted(path for path in output.rglob("*") if path.is_file())
    assert [path.suffix for path in written].count(".png") >= 7
    for path in written:
        assert str(path.relative_to(output.parent)) in done.out
    assert done.err == ""


def test_every_cutout_can_be_fitted(demo):
    output, _ = demo
    truth = Table.read(output / "truth.ecsv")
    targets = truth[truth["target"]]
    files = sorted((output / "cutouts").glob("*.fits"))
    assert len(files) == len(targets) >= 3
    for path, target in zip(files, targets, strict=True):
        with fits.open(path) as hdus:
            hdus.verify("exception")
            image, mask, sigma = (hdu.data for hdu in hdus)
            assert set(np.unique(mask)) <= {0, 1}
            assert (sigma > 0).all()
            assert np.isfinite(image).all()
            x, y = WCS(hdus[0].header).all_world2pix(target["ra"], target["dec"], 0)
            np.testing.assert_allclose([x, y], 60, atol=0.5)
            assert not mask[round(float(y)), round(float(x))]
            assert hdus[0].header["GAIN"] == 2.5
            assert hdus[0].header["EXPTIME"] == 300.0


def test_result_agrees_with_the_truth(demo):
    summary = Table.read(demo[0] / "summary.ecsv")
    rows = {row["quantity"]: row for row in summary}
    assert abs(rows["sky: mean error / pixel noise"]["result"]) < 0.02
    assert abs(rows["std of data / sigma where there is sky"]["result"] - 1) < 0.02
    targets = np.array([row["deviation"] for name, row in rows.items() if name.startswith("target")])
    assert len(targets) >= 9
    assert np.abs(targets).max() < 5
    assert np.sqrt(np.mean(targets**2)) < 1.7


def test_again_replaces_its_own_files_and_no_others(demo):
    output, _ = demo
    (output / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in (output / "cutouts").iterdir()}
    done = galprep("demo", "--size", *SHAPE, "--seed", "3", "--no-figures", cwd=output.parent)
    assert done.status == 0, done.err
    assert (output / "notes.txt").read_text() == "mine"
    assert {path.name: path.read_bytes() for path in (output / "cutouts").iterdir()} == before


def test_output_elsewhere_and_what_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    done = galprep("demo", "--output", "file/below", "--size", *SHAPE, cwd=tmp_path)
    assert done.status == 2
    assert "cannot make the directory 'file/below'" in done.err
    assert "Traceback" not in done.err
    done = galprep("demo", "--size", "3", "4", cwd=tmp_path)
    assert done.status == 2
    assert "Traceback" not in done.err


def test_info_says_what_is_read_and_from_where(tmp_path):
    fits.HDUList([
        fits.PrimaryHDU(header=fits.Header({"EXPTIME": 12.0})),
        fits.ImageHDU(np.zeros((40, 60), "i2"), tan_header((40, 60), EGAIN=1.5), name="SCI"),
    ]).writeto(tmp_path / "image.fits")  # fmt: skip
    for hdu in ((), ("--hdu", "1"), ("--hdu", "SCI")):
        done = galprep("info", "image.fits", *hdu, cwd=tmp_path)
        assert done.status == 0, done.err
        for text in ("40 x 60 (y, x), float32", "1.5 e-/ADU (from EGAIN)", "12 s (from EXPTIME)", "not known",
                     "RA---TAN, DEC--TAN, 0.5000 arcsec", "ra 150.0"):  # fmt: skip
            assert text in done.out


def test_errors_are_a_line_and_status_2(tmp_path):
    done = galprep("info", "nowhere.fits", cwd=tmp_path)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert done.err.startswith("galprep: there is no file '")
    assert done.err.endswith("nowhere.fits'. Check the path.\n")
    assert galprep("--version", cwd=tmp_path).out.startswith("galprep 0.")
    assert "demo" in galprep("--help", cwd=tmp_path).out
