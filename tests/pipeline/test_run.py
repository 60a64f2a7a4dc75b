"""``galprep run``: what it leaves, what it does again, and what it says of what it cannot do."""

import json
import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from small_runs import NAMES, POSITIONS, inodes, sky_positions, tree, write_config, write_inputs
from typer.testing import CliRunner

from galprep_dask.cli import app
from galprep_dask.cutouts import validate_files
from galprep_dask.errors import ConfigError, OutputError
from galprep_dask.io.fits_reader import FitsPlane
from galprep_dask.pipeline.config import read_config
from galprep_dask.pipeline.galfits import read_lyric
from galprep_dask.pipeline.run import plan_run, run_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is over; what changes it belongs to the last tests that use it."""
    folder = tmp_path_factory.mktemp("run")
    write_inputs(folder)
    result = run_config(read_config(write_config(folder)))
    assert result.ok
    assert result.written == 12
    return folder


def manifest_of(output):
    table = Table.read(output / "manifest.ecsv")
    parquet = Table.read(output / "manifest.parquet")
    assert table.colnames == parquet.colnames
    for name in table.colnames:
        text = parquet[name].dtype.kind == "U"
        read = np.ma.filled(table[name], "") if text else np.asarray(table[name])  # no text is masked text in ECSV
        np.testing.assert_array_equal(read, np.asarray(parquet[name]))
    return parquet


# What it leaves ---------------------------------------------------------------------------------------------


def test_every_product_is_in_the_manifest_and_there(finished):
    output = finished / "out"
    table = manifest_of(output)
    assert list(zip(table["target"], table["kind"], table["band"], strict=True))[:5] == [
        ("a", "cutout", "r"), ("a", "cutout", "k"), ("a", "feedme", "r"), ("a", "feedme", "k"), ("a", "lyric", ""),
    ]  # fmt: skip
    assert len(table) == 6 * 5
    assert set(table["status"]) == {"done"}
    assert sorted(table["path"]) == sorted(name for name in tree(output) if name.startswith("targets/"))
    cutouts = table[table["kind"] == "cutout"]
    for row in cutouts:
        assert fits.getheader(output / row["path"])["GPRUN"] == row["parameters"]


def test_cutouts_hold_the_target_its_noise_and_the_psf(finished):
    for name, (x, y) in zip(NAMES, POSITIONS, strict=True):
        with fits.open(finished / f"out/targets/{name}/{name}_r.fits") as hdus:
            image, mask, sigma, psf = (hdu.data for hdu in hdus)
            header = hdus[0].header
        assert image.shape == (24, 24)
        ra, dec = sky_positions([(x, y)])
        at = np.ravel(WCS(header).all_world2pix(ra, dec, 0))
        # A Gaussian of 6000 and 3.5 x 2.5 pixels over white noise of 1, without its sky.
        peak = 6000 / (2 * np.pi * 3.5 * 2.5)
        near = tuple(np.round(at[::-1]).astype(int))
        assert image[near] == pytest.approx(peak, rel=0.05)
        assert not mask[near]
        assert sigma[near] == pytest.approx(np.hypot(1, np.sqrt(peak / 200)), rel=0.05)
        assert np.std(image[np.hypot(*np.indices(image.shape) - 11.5) > 14]) == pytest.approx(1, rel=0.25)
        assert psf.sum() == pytest.approx(1, abs=1e-6)
        assert header["SIGCHK"] == pytest.approx(1, abs=0.02)
        assert header["SKYMODEL"] == "polynomial"
        assert header["GPINPUT"] == "r.fits"
    findings = validate_files(sorted((finished / "out/targets").glob("*/*.fits")))
    assert [finding for finding in findings if finding.level == "error"] == []


def test_starting_values_are_those_of_the_galaxies(finished):
    table = manifest_of(finished / "out")
    cutouts = table[(table["kind"] == "cutout") & (table["band"] == "r")]
    np.testing.assert_allclose(cutouts["mag"], 25 - 2.5 * np.log10(6000), atol=0.05)
    # The PSF in the file, of sigma sqrt(3), is taken off.
    along, across = (np.sqrt(width**2 - 3) for width in (3.5, 2.5))
    np.testing.assert_allclose(cutouts["re"], 0.5 * np.sqrt(2 * np.log(2)) * along, rtol=0.1)
    np.testing.assert_allclose(cutouts["q"], across / along, rtol=0.15)
    for name in NAMES:
        blocks = read_lyric(finished / f"out/targets/{name}/{name}.lyric")
        assert blocks["R"][3] == 0.1
        assert [blocks[image][1][0] for image in ("Ia", "Ib")] == [f"{name}_r.fits", f"{name}_k.fits"]
        assert abs(blocks["Pa"][3][0]) < 0.1  # arcsec
        assert abs(abs(blocks["Pa"][7][0]) - 90) < 5  # along x
        feedme = (finished / f"out/targets/{name}/{name}_k.feedme").read_text()
        assert f"A) {name}_k.fits[0]" in feedme
        for block, number in (("Ia", 1), ("Ib", 3), ("Ib", 4), ("Ia", 6)):
            file, hdu = blocks[block][number]
            assert fits.getdata(finished / "out/targets" / name / file, hdu).ndim == 2


def test_the_record_of_a_band_says_what_was_measured(finished):
    record = json.loads((finished / "out/bands/r/band.json").read_text())
    assert record["status"] == "done"
    assert record["sky"]["std"] == pytest.approx(1, abs=0.02)
    assert record["sky"]["level"] == pytest.approx(51, abs=0.05)
    assert record["segmentation"]["n_sources"] >= 6
    assert record["sigma"]["sigchk"] == pytest.approx(1, abs=0.02)
    assert record["psf"]["source"] == "file"
    assert record["psf"]["fwhm"] == pytest.approx(0.5 * 2.3548 * np.sqrt(3 + 1 / 12), rel=0.03)
    preview = np.load(finished / "out/bands/r/preview.npz")
    assert preview["step"] == 1
    data, sky, left = (preview[name] for name in ("data", "sky", "subtracted"))
    np.testing.assert_allclose(data - sky, left, atol=1e-4)
    np.testing.assert_array_equal(data, fits.getdata(finished / "r.fits"))


# What it does again ------------------------------------------------------------------------------------------


def test_a_second_run_touches_nothing(finished):
    before = tree(finished / "out"), inodes(finished / "out")
    result = run_config(read_config(finished / "config.toml"))
    assert result.written == 0
    assert tree(finished / "out") == before[0]
    changed = {name for name, inode in inodes(finished / "out").items() if before[1][name] != inode}
    assert changed <= {"manifest.ecsv", "manifest.parquet", "report.html"}


def test_a_plan_says_what_is_there_and_writes_nothing(finished, tmp_path):
    done = CliRunner().invoke(app, ["run", str(finished / "config.toml"), "--dry-run", "--json"])
    assert done.exit_code == 0
    plan = json.loads(done.stdout)
    assert plan["steps"] == {"r": [], "k": []}
    assert plan["cutouts"]["r"] == {"there": 6, "missing": 0, "impossible": 0}
    write_inputs(tmp_path)
    plan = plan_run(read_config(write_config(tmp_path)))
    assert plan.steps["r"] == ["sky", "sigma", "sources", "preview", "stars", "psf"]
    assert plan.cutouts["k"] == {"there": 0, "missing": 6, "impossible": 0}
    assert not (tmp_path / "out").exists()


def test_another_configuration_is_refused_with_what_changed(finished):
    before = tree(finished / "out")
    changed = write_config(finished, name="changed.toml", cutout__size=15.0, sky__order=2)
    with pytest.raises(ConfigError) as caught:
        run_config(read_config(changed))
    assert "sky.order: 1 then, 2 now" in str(caught.value)
    assert "cutout.size: 12.0 then, 15.0 now" in str(caught.value)
    assert "--force" in str(caught.value)
    assert tree(finished / "out") == before


@pytest.mark.parametrize(
    ("change", "steps", "cutouts"),
    [
        ({"cutout__size": 15.0}, [], 6),
        ({"mask__source_diameter": 2.0}, [], 6),
        ({"band__zeropoint": 26.0}, [], 6),
        ({"galfits__lyric": False}, [], 0),
        ({"psf__size": 11}, [], 0),  # the PSF is that of a file
        ({"sigma__rescale": True}, ["sigma", "preview"], 6),
        ({"detection__n_sigma": 3.0}, ["sources", "preview"], 6),
        ({"sky__order": 2}, ["sky", "sigma", "sources", "preview"], 6),
        ({"band__psf": "other.fits"}, ["psf"], 6),
    ],
)
def test_a_change_redoes_what_it_touches(finished, change, steps, cutouts):
    fits.writeto(finished / "other.fits", np.ones((5, 5)), overwrite=True)
    plan = plan_run(read_config(write_config(finished, name="changed.toml", **change)), force=True)
    assert plan.steps["r"] == plan.steps["k"] == steps
    assert plan.cutouts["r"]["missing"] == cutouts


def test_a_cutout_that_was_damaged_or_lost_is_made_again(finished):
    output, expected = finished / "out", tree(finished / "out")
    short, lost, old = (output / f"targets/{name}/{name}_r.fits" for name in "abc")
    os.truncate(short, 2880 * 3 + 100)
    lost.unlink()
    fits.setval(old, "GPRUN", value="0123456789abcdef")
    (output / "targets/d/d.lyric").unlink()
    (output / "bands/r/.band.json.0123456789ab.part").write_text("left behind")
    (output / "manifest.parquet").unlink()
    before = inodes(output)
    result = run_config(read_config(finished / "config.toml"))
    assert result.written == 3
    assert tree(output) == expected
    after = inodes(output)
    assert all(after[name] == inode for name, inode in before.items() if "/d/d_" in name or "psf" in name)


def test_what_a_worker_that_died_left_unfinished_is_removed(finished):
    output, expected = finished / "out", tree(finished / "out")

    @contextmanager
    def step(name):
        if name == "k: cutouts":
            (output / "targets/d/.d_k.fits.0123456789ab.part").write_bytes(b"SIMPLE")
            (output / "targets/d/.d_k.fits.0123456789ac.old").mkdir()
        yield

    assert run_config(read_config(finished / "config.toml"), step=step).ok
    assert tree(output) == expected
    assert not [path for path in output.rglob(".*") if path.suffix in (".part", ".old")]


def test_force_and_clean_leave_what_a_new_run_leaves(finished, tmp_path):
    """Last of those that share the run: it is another one afterwards."""
    changed = write_config(finished, name="changed.toml", cutout__size=15.0, sigma__rescale=True)
    before = inodes(finished / "out")
    done = CliRunner().invoke(app, ["run", str(changed), "--force", "--clean", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["written"] == 12
    assert not (finished / "out/work").exists()
    after = inodes(finished / "out")
    kept = {name for name, inode in before.items() if after[name] == inode}
    assert {f"bands/{band}/{file}" for band in "rk" for file in ("sky.npz", "sources.parquet", "psf.fits")} <= kept
    again = write_config(finished, name="again.toml", output=str(tmp_path / "out"), cutout__size=15.0,
                         sigma__rescale=True)  # fmt: skip
    assert run_config(read_config(again)).ok
    assert tree(tmp_path / "out") == tree(finished / "out")
    assert run_config(read_config(changed), clean=True).written == 0


# What it reads -----------------------------------------------------------------------------------------------


def test_every_pixel_is_read_at_most_three_times(tmp_path, monkeypatch):
    write_inputs(tmp_path, bands=("r",))
    counts, lock = {}, threading.Lock()

    def count(plane, region):
        with lock:
            counts.setdefault(os.path.basename(plane.path), np.zeros(plane.shape, int))[region] += 1

    read, windows = FitsPlane._read, FitsPlane.windows
    monkeypatch.setattr(FitsPlane, "_read", lambda plane, region: (count(plane, region), read(plane, region))[1])
    monkeypatch.setattr(
        FitsPlane, "windows",
        lambda plane, regions: ([count(plane, region) for region in regions], windows(plane, regions))[1],
    )  # fmt: skip
    monkeypatch.setattr("galprep_dask.io.open.CHUNK_SIDE", 100)
    assert run_config(read_config(write_config(tmp_path, bands=("r",), detection__deblend=True))).ok
    assert json.loads((tmp_path / "out/bands/r/band.json").read_text())["chunks"] == [100, 100]
    assert counts["r.fits"].min() >= 1
    assert counts["r.fits"].max() <= 3


# What it cannot do -------------------------------------------------------------------------------------------

HOSTILE = ["../../x", "/abs", "n" * 300, "\N{GRINNING FACE}", "twice", "twice", "with space", "new\nline", "nan", "far"]


def test_hostile_targets_and_a_truncated_band_are_rows(tmp_path):
    folder = tmp_path / "deep" / "run"
    folder.mkdir(parents=True)
    write_inputs(folder)
    os.truncate(folder / "k.fits", 2880 + 20000)
    ra, dec = (np.resize(values, len(HOSTILE)) for values in sky_positions(POSITIONS))
    ra[-2], ra[-1] = np.nan, 40.0
    Table({"name": HOSTILE, "ra": ra, "dec": dec}).write(folder / "hostile.parquet")
    config = write_config(folder, targets="hostile.parquet")
    before = {str(path) for path in tmp_path.rglob("*")}
    done = CliRunner().invoke(app, ["run", str(config), "--json"])
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout)["bands"] == {"r": "done", "k": "failed"}
    new = {str(path) for path in tmp_path.rglob("*")} - before
    assert all(path == str(folder / "out") or path.startswith(str(folder / "out/")) for path in new)
    table = manifest_of(folder / "out")
    assert len(table) == len(HOSTILE) * 5
    assert len(set(table["file_name"])) == len(HOSTILE)
    for row in table:
        reached = HOSTILE.index(row["target"]) < len(HOSTILE) - 2
        if row["kind"] == "cutout" and row["band"] == "k":
            assert row["status"] == "failed"
            assert "truncated" in row["reason"] or not reached
        elif row["band"] == "k" or not reached:
            assert row["status"] != "done"
        else:
            assert row["status"] == "done", row["reason"]
            assert (folder / "out" / row["path"]).resolve().is_relative_to(folder / "out/targets")
        assert bool(row["reason"]) == (row["status"] != "done")
    reasons = {row["target"]: row["reason"] for row in table if row["kind"] == "cutout" and row["band"] == "r"}
    assert reasons["nan"].startswith("its position is not known: ra=nan, dec=")
    assert "ra=40.0" in reasons["far"]
    lyrics = table[(table["kind"] == "lyric") & (table["status"] == "done")]
    assert set(lyrics["flags"]) == {"no_redshift,bands_missing"}
    assert json.loads((folder / "out/bands/k/band.json").read_text())["status"] == "failed"


def test_a_band_that_is_mended_is_done_without_being_forced(tmp_path):
    write_inputs(tmp_path)
    whole = (tmp_path / "k.fits").read_bytes()
    (tmp_path / "k.fits").unlink()
    config = read_config(write_config(tmp_path))
    result = run_config(config)
    assert result.bands == {"r": "done", "k": "failed"}
    assert not result.ok
    (tmp_path / "k.fits").write_bytes(whole)
    assert run_config(config).ok
    (tmp_path / "k.fits").write_bytes(whole)  # the same pixels, but who knows
    os.utime(tmp_path / "k.fits", (1, 1))
    with pytest.raises(ConfigError, match="another file than then"):
        run_config(config)


def test_what_cannot_be_written_to_is_an_error_before_any_work(tmp_path):
    write_inputs(tmp_path, bands=("r",))
    (tmp_path / "file").write_text("")
    for output in ("/proc/galprep", str(tmp_path / "file/out")):
        config = write_config(tmp_path, bands=("r",), output=output)
        with pytest.raises(OutputError, match="cannot write to"):
            run_config(read_config(config))
        done = CliRunner().invoke(app, ["run", str(config)])
        assert isinstance(done.exception, OutputError)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.toml", "file", "psf.fits", "r.fits", "targets.ecsv",
    ]  # fmt: skip


def test_a_band_without_gain_or_zero_point_says_so(tmp_path):
    write_inputs(tmp_path)
    for name, keyword in (("r", "GAIN"), ("k", "MAGZERO")):
        with fits.open(tmp_path / f"{name}.fits", mode="update") as hdus:
            del hdus[0].header[keyword]
    result = run_config(read_config(write_config(tmp_path)))
    assert result.bands == {"r": "failed", "k": "done"}
    table = manifest_of(tmp_path / "out")
    reason = {(row["kind"], row["band"]): row["reason"] for row in table[table["target"] == "a"]}
    assert "no gain" in reason["cutout", "r"]
    assert "zero point" in reason["feedme", "k"]
    assert reason["cutout", "k"] == reason["lyric", ""] == ""  # with a redshift a fit does without


def test_no_psf_is_a_flag(tmp_path):
    write_inputs(tmp_path, bands=("r",))
    config = write_config(tmp_path, bands=("r",), psf__fit=False)
    config.write_text(config.read_text().replace("psf = 'psf.fits'", ""))
    assert run_config(read_config(config)).ok
    table = manifest_of(tmp_path / "out")
    assert set(table["flags"][table["kind"] == "cutout"]) == {"no_psf"}
    assert read_lyric(tmp_path / "out/targets/a/a.lyric")["Ia"][4] == ["none", 0]
    with fits.open(tmp_path / "out/targets/a/a_r.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "MASK", "SIGMA"]
