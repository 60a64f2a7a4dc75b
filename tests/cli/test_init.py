"""``galprep init``: a configuration that a run takes as it is."""

import json

from astropy.io import fits
from command_line import galprep, write_field

from galprep_dask.pipeline.config import read_config


def test_alone_it_writes_the_commented_defaults(tmp_path):
    done = galprep("init", cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    config = read_config(tmp_path / "config.toml")
    assert [band.name for band in config.bands] == ["r"]
    assert "# n_sigma = 2.0" in (tmp_path / "config.toml").read_text()


def test_bands_are_filled_in_and_what_their_headers_lack_is_named(tmp_path):
    write_field(tmp_path)
    (tmp_path / "made").mkdir()
    odd = 'a "b" [1].fits'
    fits.writeto(tmp_path / odd, fits.getdata(tmp_path / "image.fits"))
    done = galprep(
        "init", "made/survey.toml", "--band", "r=mosaic_r.fits", "--band", f"odd={odd}",
        "--band", "k=tile.fits.fz[SCI]", "--band", f"abs={tmp_path}/mosaic.fits", "--targets", "targets.ecsv",
        "-o", "results", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["bands"] == ["r", "odd", "k", "abs"]
    assert told["not_in_headers"] == {"r": [], "odd": ["gain", "exptime", "zeropoint"], "k": [], "abs": []}
    config = read_config(tmp_path / "made" / "survey.toml")
    names = ["mosaic_r.fits", odd, "tile.fits.fz", "mosaic.fits"]
    images = [(tmp_path / "made" / band.image).resolve() for band in config.bands]
    assert images == [tmp_path / name for name in names]
    assert [band.hdu for band in config.bands] == [None, None, "SCI", None]
    assert (tmp_path / "made" / config.targets).resolve() == tmp_path / "targets.ecsv"
    assert (tmp_path / "made" / config.output).resolve() == tmp_path / "results"
    done = galprep("init", "two.toml", "--band", "r=mosaic_r.fits", "--band", "R=mosaic_k.fits", cwd=tmp_path)
    assert done.status == 2
    assert "two bands are called 'r'" in done.err
    assert not (tmp_path / "two.toml").exists()
