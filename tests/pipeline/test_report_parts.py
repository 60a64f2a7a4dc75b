"""The parts of a report: thumbnails, judgements, columns, and the command that writes it."""

import base64
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image
from run_folder import write_manifest, write_record
from typer.testing import CliRunner

from galprep_dask.cli import app
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.report.facts import cuts_of, facts_of
from galprep_dask.pipeline.report.findings import findings_of
from galprep_dask.pipeline.report.folder import BandFolder, Column, Product, RunFolder
from galprep_dask.pipeline.report.targets import gather, table_of
from galprep_dask.pipeline.report.thumbnails import _grey, thumbnail

# Thumbnails --------------------------------------------------------------------------------------------------


def cutout(path, image, mask):
    fits.HDUList([fits.PrimaryHDU(image.astype("f4")), fits.ImageHDU(mask.astype("u1"), name="MASK")]).writeto(path)
    return path


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"), int)


@pytest.fixture
def corner(tmp_path):
    """A cutout with a source at its upper left and a mask at its lower right, where y grows upwards."""
    rng = np.random.default_rng(1)
    image, mask = rng.normal(0, 1, (60, 80)), np.zeros((60, 80), bool)
    image[45:55, 5:15] += 300
    mask[4:16, 60:76] = True
    return cutout(tmp_path / "cut.fits", image, mask)


def test_thumbnail_is_upright_and_keeps_its_shape(corner):
    small = thumbnail(corner, 40)
    picture, mask = decoded(small.image), decoded(small.mask)
    assert picture.shape[:2] == mask.shape[:2] == (30, 40)
    row, column = np.unravel_index(picture[..., 0].argmax(), (30, 40))
    assert (row < 8, column < 8) == (True, True)
    opaque = np.argwhere(mask[..., 3] > 0)
    assert opaque.min(0).tolist() == [22, 30]
    assert opaque.max(0).tolist() == [27, 37]
    border, inside = mask[22, 33, 3], mask[25, 33, 3]
    assert border > 2 * inside > 0


def test_small_cutouts_are_not_enlarged(corner):
    assert decoded(thumbnail(corner, 128).image).shape == (60, 80, 4)


def test_what_is_masked_does_not_change_the_scale(corner):
    with fits.open(corner) as hdus:
        image, mask = hdus[0].data.copy(), hdus[1].data != 0
    shown = _grey(image, mask)
    for value in (0.0, 1e30, -np.inf, np.nan):
        image[mask] = value
        np.testing.assert_array_equal(_grey(image, mask)[~mask], shown[~mask])
        assert np.isfinite(_grey(image, mask)).all()


def test_no_mask_has_no_layer_and_constant_images_are_drawn(tmp_path):
    small = thumbnail(cutout(tmp_path / "flat.fits", np.full((9, 9), 3.0), np.zeros((9, 9))), 64)
    assert small.mask == small.problem == ""
    assert np.ptp(decoded(small.image)[..., 0]) == 0
    assert thumbnail(cutout(tmp_path / "all.fits", np.full((9, 9), np.nan), np.ones((9, 9))), 64).problem == ""


def test_files_that_are_no_cutouts_are_said(tmp_path):
    cube = cutout(tmp_path / "cube.fits", np.zeros((2, 5, 5)), np.zeros((5, 5)))
    assert "holds no cutout: image and mask have 2 x 5 x 5 and 5 x 5 pixels" in thumbnail(cube, 64).problem
    (tmp_path / "text.fits").write_text("no FITS")
    assert thumbnail(tmp_path / "text.fits", 64).problem.startswith("text.fits cannot be read: ")
    assert thumbnail(tmp_path / "none.fits", 64).problem == "none.fits is missing"


# Judgements --------------------------------------------------------------------------------------------------

GOOD = {
    "status": "done", "segmentation": {"masked_fraction": 0.1}, "sigma": {"sigchk": 1.0},
    "psf": {"source": "fitted", "converged": True, "n_stars": 40, "chi2_reserved": 1.05},
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "change", "level", "words"),
    [
        ("sigma", {"sigchk": 1.3}, "warning", "scatter by 1.3 sigma"),
        ("sigma", {"sigchk": 0.2}, "error", "scatter by 0.2 sigma"),
        ("sigma", {"sigchk": None}, "warning", "was not checked"),
        ("psf", {"source": "none", "reason": "no stars"}, "warning", "no PSF: no stars"),
        ("psf", {"converged": False}, "warning", "had not settled"),
        ("psf", {"n_stars": 4}, "warning", "made of 4 stars"),
        ("psf", {"chi2_reserved": 2.5}, "warning", "chi2 of 2.50"),
        ("psf", {"chi2_reserved": float("nan")}, "warning", "chi2 of nan"),
        ("psf", {"warnings": ["it rained"]}, "warning", "it rained"),
        ("segmentation", {"masked_fraction": 0.9}, "warning", "90 % of the pixels"),
    ],
)
def test_doubtful_numbers_are_found(section, change, level, words):
    assert [finding.level for finding in findings_of(BandFolder("r", GOOD))] == ["ok"]
    record = GOOD | {section: GOOD[section] | change}
    (finding,) = findings_of(BandFolder("r", record))
    assert finding.level == level
    assert words in finding.text


def test_psf_from_a_file_is_not_held_against_stars():
    record = GOOD | {"psf": {"source": "file", "fwhm": 1.0}}
    assert [finding.level for finding in findings_of(BandFolder("r", record))] == ["ok"]


def test_unknown_keys_of_a_record_are_shown_as_they_are():
    groups = dict(facts_of(BandFolder("r", {"sky": {"model": "mesh", "mood_of_the_night": 0.5}, "pixel_scale": 0.2})))
    assert [tuple(fact) for fact in groups["Sky"]] == [("model", "mesh", ""), ("mood of the night", "0.5", "")]
    assert groups["Image"][0] == ("pixel", "0.2", "arcsec")


def test_cuts_are_shares_of_all_sources():
    cuts = [{"name": "raw", "dropped": 0, "left": 200}, {"name": "flux", "dropped": 150, "left": 50}]
    assert [cut.share for cut in cuts_of(BandFolder("r", {"stars": {"cuts": cuts}}))] == [1.0, 0.25]


# Columns -----------------------------------------------------------------------------------------------------


def run_of(products, columns, tmp_path):
    return RunFolder(tmp_path, products, columns, [BandFolder("g"), BandFolder("r")], {}, "0", [])


def test_state_of_a_target_is_that_of_its_products(tmp_path):
    def target(name, *statuses):
        told = zip("gr", statuses, strict=True)
        return [Product(name, name, "cutout", band, status, reason=f"why {status}") for band, status in told]

    products = [
        *target("a", "done", "done"), *target("b", "done", "failed"), *target("c", "failed", "failed"),
        *target("d", "skipped", "skipped"), *target("e", "done", "skipped"),
    ]  # fmt: skip
    targets = gather(products)
    assert [one.status for one in targets] == ["done", "partly", "failed", "skipped", "done"]
    assert targets[1].reasons == ["r: why failed"]
    assert targets[2].reasons == ["g, r: why failed"]
    assert targets[3].reasons == ["g, r: why skipped"]


def test_targets_of_one_name_are_two_targets():
    products = [Product("a", "a-1", "cutout", "g", "done"), Product("a", "a-2", "cutout", "g", "failed")]
    assert [(one.name, one.file_name, one.status) for one in gather(products)] == [
        ("a", "a-1", "done"), ("a", "a-2", "failed"),
    ]  # fmt: skip


def test_decimals_line_numbers_up_and_units_are_kept(tmp_path):
    columns = [Column("flux", "uJy", "of all"), Column("masked"), Column("note"), Column("empty")]
    values = [(1234.567, 0.25, "x", None), (0.5, 0.125, None, None)]
    names = [column.name for column in columns]
    measured = [dict(zip(names, row, strict=True)) for row in values]
    products = [Product(f"T{k}", f"T{k}", "cutout", "g", "done", measured=row) for k, row in enumerate(measured)]
    table = table_of(run_of(products, columns, tmp_path), gather(products))
    ra, dec, flux, masked, note = table["columns"]
    assert (flux["unit"], flux["title"], flux["decimals"]) == ("uJy", "of all", 0)
    assert flux["values"] == [[1235.0, 0.0], [None, None]]
    assert (masked["unit"], masked["values"][0]) == ("%", [25.0, 12.5])
    assert (note["numeric"], note["values"][0]) == (False, ["x", None])
    assert ra["values"] == dec["values"] == [None, None]


# The command -------------------------------------------------------------------------------------------------


def galprep(*arguments, cwd):
    command = [sys.executable, "-c", "from galprep_dask.cli import main; main()", "report", *arguments]
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)


def test_command_writes_the_page_and_says_what_it_says(tmp_path):
    rows = [
        {"target": "[/b]", "file_name": "b", "kind": "cutout", "band": "r", "status": "done"},
        {"target": "c", "file_name": "c", "kind": "cutout", "band": "r", "status": "failed", "reason": "[red]"},
    ]
    write_manifest(tmp_path, rows)
    layout.band_folder(tmp_path, "r").mkdir(parents=True)
    write_record(tmp_path, "r", GOOD)
    done = galprep(".", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    page = layout.report_file(tmp_path)
    assert told == {
        "page": page.name, "bytes": page.stat().st_size, "targets": 2, "failed": 1, "partly": 0, "skipped": 0,
        "done": 1, "errors": ["[/b], r: b_r.fits is missing"], "warnings": [],
    }  # fmt: skip
    first = page.read_bytes()
    shown = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert shown.exit_code == 0
    assert "[/b], r: b_r.fits is missing" in shown.output
    assert page.read_bytes() == first


def test_command_names_what_is_no_run(tmp_path):
    done = galprep(str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"galprep: '{tmp_path}' has no manifest.ecsv")
    assert len(done.stderr.splitlines()) == 1
