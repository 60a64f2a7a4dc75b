"""The PSF by the documented arguments: each of them changes what it is said to change."""

import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from fields import SCALE, tan_header
from star_fields import simulate_stars

from galprep_dask import images as IM
from galprep_dask.errors import (
    GaiaUnavailableError,
    ImageShapeError,
    NoGaiaWarning,
    NoStarsError,
    OutputError,
    ParameterError,
)

SHAPE = (420, 400)
FWHM = 3.2


@pytest.fixture(scope="module")
def field():
    return simulate_stars(SHAPE, 45, seed=7, fwhm=FWHM)


@pytest.fixture(scope="module")
def path(field, tmp_path_factory):
    path = tmp_path_factory.mktemp("field") / "field_g.fits"
    header = tan_header(SHAPE, **{"GAIN": 1e6, "EXPTIME": 1.0, "DATE-OBS": "2016-01-01T00:00:00"})
    fits.writeto(path, (field.image + 20).astype("f4"), header)
    return path


@pytest.fixture(scope="module")
def gaia(field):
    """Where the simulated stars are, as Gaia would list them."""
    stars = field.sources[field.sources["kind"] == 0]
    wcs = WCS(tan_header(SHAPE))
    ra, dec = wcs.all_pix2world(stars["x"], stars["y"], 0)
    return Table({"source_id": np.arange(len(ra)), "ra": ra, "dec": dec, "ruwe": np.ones(len(ra))})


def generate(path, **arguments):
    img = IM.image(path)
    settings = {"psfFWHM": FWHM * SCALE, "crossmatch": False, "size": 25} | arguments
    return img, img.generate_PSFs(**settings)


@pytest.fixture(scope="module")
def plain(path):
    return generate(path)


def used(img):
    return int(img.stars["used"].sum())


def test_psf_is_that_of_the_field(plain):
    img, psf = plain
    assert psf.shape == (25, 25)
    assert psf.dtype == np.float64
    assert abs(psf.sum() - 1) < 1e-6
    y, x = np.mgrid[-12:13, -12:13]
    assert abs((psf * x).sum()) < 0.02
    assert abs((psf * y).sum()) < 0.02
    assert img.psf_model.fwhm == pytest.approx(FWHM, rel=0.05)
    assert np.isfinite(np.asarray(img.stars["chi2"])[img.stars["used"]]).all()
    assert used(img) >= 10


def test_file_has_psf_stars_and_sigma(path, tmp_path):
    file = tmp_path / "psf.fits"
    file.write_text("an earlier run")
    _, psf = generate(path, filepaths=file)
    assert '"generate_PSFs":{' in fits.getheader(file)["GPPARAM"]
    assert fits.getheader(file)["GPINPUT"] == path.name
    with fits.open(file) as hdus:
        np.testing.assert_array_equal(hdus[0].data, psf.astype("f4"))
        assert {"dx", "dy", "flux", "chi2"} <= set(hdus[1].columns.names)
        assert hdus[2].data.shape == psf.shape
        assert (hdus[2].data > 0).all()


def test_figures_are_written_where_asked(path, tmp_path):
    generate(path, plot=True, figurepath=tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {f"field_g_{what}.png" for what in ("star_cuts", "stellar_locus", "stars", "psf", "psf_fit")}
    with pytest.raises(OutputError, match="is no directory"):
        generate(path, plot=True, figurepath=tmp_path / "none")


def test_notfit_stops_after_the_selection(path, plain):
    img, psf = generate(path, notfit=True)
    assert psf is None
    assert img.psf_model is None
    np.testing.assert_array_equal(img.stars["used"], plain[0].stars["used"])


def test_selection_follows_each_argument(path, plain):
    base = plain[0].stars
    n = used(plain[0])

    def selected(**arguments):
        return generate(path, notfit=True, **arguments)[0].stars

    assert len(selected(nsigma=8.0)) < len(base)
    assert len(selected(npixels=40)) < len(base)
    assert selected(fluxthreshould=1.0)["used"].sum() < n
    assert selected(qt=0.97)["used"].sum() < n
    assert selected(sigfwhm=0.3)["used"].sum() < n
    wide = selected(medianfwhm=2 * FWHM)  # galaxies, for the most part
    assert np.median(wide["fwhm"][wide["used"]].value) > 1.15 * np.median(base["fwhm"][base["used"]].value)
    assert selected(isolate=0.0)["used"].sum() < n
    assert selected(size=61)["used"].sum() < n  # more neighbours in larger boxes
    numbers = np.asarray(base["number"])[base["used"]]
    dropped = selected(droppsf=[int(numbers[0])])
    assert dropped["used"].sum() == n - 1
    assert not dropped["used"][np.flatnonzero(np.asarray(base["number"]) == numbers[0])[0]]
    with pytest.raises(ParameterError, match="10000"):
        selected(droppsf=[10000])


def test_psf_fwhm_smooths_the_detection(path, plain):
    assert len(generate(path, psfFWHM=8 * SCALE, notfit=True)[0].stars) != len(plain[0].stars)


def test_central_bad_pixels(path, plain):
    star = plain[0].stars[plain[0].stars["used"]][0]
    bad = np.zeros(SHAPE, bool)
    y, x = round(float(star["y"])) + 5, round(float(star["x"]))
    bad[y, x - 1 : x + 2] = True
    img = IM.image(path, mask=bad)
    settings = {"psfFWHM": FWHM * SCALE, "crossmatch": False, "size": 25, "notfit": True}
    img.generate_PSFs(**settings, central_tol=2)
    row = np.hypot(img.stars["x"] - star["x"], img.stars["y"] - star["y"]).argmin()
    assert img.stars["reason"][row] != ""
    img.generate_PSFs(**settings, central_tol=3)
    assert img.stars["reason"][row] == ""


def test_given_positions_replace_the_catalogue(path, plain):
    stars = plain[0].stars
    positions = np.column_stack([stars[name].value for name in ("ra", "dec")])[stars["used"]][:8]
    img, _ = generate(path, starcord_list=positions.tolist(), medianfwhm=FWHM, notfit=True)
    assert len(img.stars) == 8


def test_crossmatch_takes_a_table_or_says_what_is_missing(path, gaia, monkeypatch):
    img, _ = generate(path, crossmatch=True, gaia_catalog=gaia, notfit=True)
    assert (np.asarray(img.stars["gaia_row"])[img.stars["used"]] >= 0).all()
    assert (img.stars["reason"] == "Gaia match: none").any()
    pauses = []
    monkeypatch.setattr("galprep_dask.gaia.tap.time.sleep", pauses.append)  # between tries
    for name in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing answers there, and nowhere else is asked
    with pytest.raises(GaiaUnavailableError, match="gaia_catalog="):
        generate(path, crossmatch=True, notfit=True)
    assert len(pauses) == 4
    with pytest.warns(NoGaiaWarning, match="cannot be reached"):
        generate(path, crossmatch="auto", notfit=True)
    assert len(pauses) == 4  # who does not insist is not kept waiting


def test_data_and_sigmaimg(path, field, plain):
    img = IM.image(path)
    sigma = np.full(SHAPE, 1.0)
    sigma[:, :200] = 3.0
    psf = img.generate_PSFs(FWHM * SCALE, crossmatch=False, size=25, sigmaimg=sigma)
    assert not np.array_equal(psf, plain[1])
    other = img.generate_PSFs(FWHM * SCALE, data=field.image[::-1].copy(), crossmatch=False, size=25)
    assert not np.array_equal(other, plain[1])
    with pytest.raises(ImageShapeError, match="sigmaimg"):
        img.generate_PSFs(FWHM * SCALE, crossmatch=False, sigmaimg=np.ones((3, 3)))


@pytest.mark.filterwarnings("ignore::galprep_dask.errors.NotConvergedWarning")  # few steps, on purpose
def test_ways_to_make_the_psf(path, plain):
    psfs = {
        "fit": plain[1],
        "stack": generate(path, makestackpsf=True)[1],
        "photutils": generate(path, photutils_method=True, oversampling=2)[1],
        "finer": generate(path, oversampling=2)[1],
        "smooth": generate(path, a_TV=3.0)[1],
        "flat": generate(path, a_sky=1e4)[1],
        "adam": generate(path, solver="adam", num_steps=60, learning_rate=1e-4)[1],
        "faster adam": generate(path, solver="adam", num_steps=60, learning_rate=1e-3)[1],
        "longer adam": generate(path, solver="adam", num_steps=90, learning_rate=1e-4)[1],
    }
    names = list(psfs)
    for one in names:
        assert psfs[one].shape == (25, 25)
        assert abs(psfs[one].sum() - 1) < 1e-6
        for other in names[: names.index(one)]:
            assert not np.array_equal(psfs[one], psfs[other]), (one, other)
    assert np.abs(np.diff(psfs["smooth"])).sum() < np.abs(np.diff(psfs["fit"])).sum()
    with pytest.raises(ParameterError, match="choose one"):
        generate(path, makestackpsf=True, photutils_method=True)


def test_verbose(path, caplog):
    with caplog.at_level(logging.INFO, logger="galprep_dask.images"):
        generate(path, notfit=True, verbose=False)
        assert "stars:" not in caplog.text
        generate(path, notfit=True)
        assert "stars: raw" in caplog.text


def test_no_stars_names_the_cut(path):
    with pytest.raises(NoStarsError, match="axis ratio"):
        generate(path, qt=0.9999)
    with pytest.raises(ParameterError, match="crossmatch='maybe'"):
        generate(path, crossmatch="maybe")
    with pytest.raises(ParameterError, match="odd"):
        generate(path, size=24)
