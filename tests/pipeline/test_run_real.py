"""One galaxy in three bands of three telescopes, pixel scales and PSFs: what a run leaves is what fits can use."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from galprep_dask.cutouts import validate_files
from galprep_dask.pipeline.config import read_config
from galprep_dask.pipeline.galfits import read_lyric
from galprep_dask.pipeline.run import run_config

pytestmark = pytest.mark.shared_data

RA, DEC, SIZE = 130.61785, -0.27158, 60.0

#: The zero point of the first image is 0, so that its gain is that of a flux of magnitude 0; the GALEX image has no
#: star, and takes the PSF of the same instrument from another data set.
CONFIG = """
targets = "targets.csv"
output = "out"
[[bands]]
name = "r"
image = "{data}/gama_g202627/VST_r.fits"
zeropoint = 0.0
gain = 6.9e9
galfits_band = "sloan_r"
wavelength = 6231.0
atlas = "vst"
[[bands]]
name = "K"
image = "{data}/gama_g202627/VISTA_K.fits"
zeropoint = 30.0
wavelength = 21500.0
atlas = "vista"
[[bands]]
name = "NUV"
image = "{data}/gama_g202627/GALEX_NUV.fits"
psf = "{data}/galfits_j0056/galexnuv_psf.fits"
zeropoint = 20.08
atlas = "galex"
[psf]
size = 15
oversampling = 1
degree = 0
[cutout]
size = 60.0
"""


@pytest.fixture(scope="module")
def output(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    Table({"name": ["G202627"], "ra": [RA], "dec": [DEC], "z": [0.05]}).write(folder / "targets.csv")
    (folder / "config.toml").write_text(CONFIG.format(data=shared_data))
    result = run_config(read_config(folder / "config.toml"))
    assert result.ok
    return folder / "out"


def test_every_file_that_the_configuration_names_is_there_and_valid(output):
    folder = output / "targets/G202627"
    blocks = read_lyric(folder / "G202627.lyric")
    files = {name: blocks[name] for name in ("Ia", "Ib", "Ic")}
    for image in files.values():
        assert sorted(image) == list(range(1, 16))
        for number, hdu in ((1, 0), (3, 2), (4, 3), (6, 1)):
            assert image[number] == [image[1][0], hdu]
            assert fits.getdata(folder / image[number][0], hdu).ndim == 2
    findings = validate_files(folder / image[1][0] for image in files.values())
    assert [finding for finding in findings if finding.level == "error"] == []
    assert [blocks[atlas][1] for atlas in ("Aa", "Ab", "Ac")] == ["vst", "vista", "galex"]
    assert blocks["R"][2] == [RA, DEC]
    assert blocks["R"][3] == 0.05
    assert [image[2] for image in files.values()] == ["sloan_r", "K", "NUV"]


@pytest.mark.parametrize(("band", "scale"), [("r", 0.2), ("K", 0.339), ("NUV", 1.5)])
def test_the_galaxy_is_in_the_middle_and_not_masked(output, band, scale):
    with fits.open(output / f"targets/G202627/G202627_{band}.fits") as hdus:
        image, mask, noise, psf = (hdu.data for hdu in hdus)
        header, centre = hdus[0].header, [hdus[3].header[f"PSF{axis}OFF"] for axis in "XY"]
    assert image.shape == (round(SIZE / scale),) * 2
    x, y = WCS(header).all_world2pix(RA, DEC, 0)
    middle = (image.shape[0] - 1) / 2
    assert abs(x - middle) <= 0.5 + 1e-6
    assert abs(y - middle) <= 0.5 + 1e-6
    iy, ix = np.indices(image.shape)
    core = np.hypot(ix - x, iy - y) * scale < 3.0
    assert not mask[core].any()
    assert image[core].sum() > 10 * np.sqrt((noise[core].astype(float) ** 2).sum())
    assert header["SIGCHK"] == pytest.approx(1, abs=0.1)
    assert psf.sum(dtype=float) == pytest.approx(1, abs=1e-5)
    assert np.abs(centre).max() < 0.005


def test_psfs_are_those_of_the_stars_where_there_are_stars(output):
    records = {band: json.loads((output / f"bands/{band}/band.json").read_text()) for band in ("r", "K", "NUV")}
    assert [record["psf"]["source"] for record in records.values()] == ["fitted", "fitted", "file"]
    assert records["r"]["psf"]["fwhm"] == pytest.approx(0.65, abs=0.15)  # arcsec
    assert records["K"]["psf"]["fwhm"] == pytest.approx(0.95, abs=0.15)
    assert records["r"]["stars"]["n_used"] >= 3
    for band in ("r", "K"):
        stars = Table.read(output / f"bands/{band}/stars.ecsv")
        assert np.sum(stars["used"]) == records[band]["stars"]["n_used"]
        left = np.load(output / f"bands/{band}/psf_residuals.npz")
        middle = left["residual"].shape[0] // 2
        psf = fits.getdata(output / f"bands/{band}/psf.fits")
        assert abs(left["residual"][middle, middle]) < 0.2 * psf.max()
    table = Table.read(output / "manifest.parquet")
    cutouts = table[table["kind"] == "cutout"]
    assert 15 < cutouts["mag"][0] < 16.5
    assert (cutouts["re"] > 1).all()
