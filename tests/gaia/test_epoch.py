import logging

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import Distance, SkyCoord, get_body_barycentric
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from fields_on_sky import wcs_at

from galprep_dask import gaia, open_image, write_image
from galprep_dask.errors import MissingEpochError, ParameterError
from galprep_dask.gaia.epoch import julian_year, positions_at

SHAPE = (500, 500)


def one_star(ra, dec, **rest):
    table = {"ra": [ra], "dec": [dec], "ref_epoch": [2016.0], "pmra": [0.0], "pmdec": [0.0], "parallax": [0.0]}
    return Table(table | {name: [value] for name, value in rest.items()})


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (0.00001, 60.0), (200.0, -89.999), (10.0, 89.9999)])
@pytest.mark.parametrize("angle", [0, 45, 90, 200])
@pytest.mark.parametrize("epoch", [1996.0, 2036.0])
def test_500_mas_a_year_for_20_years(ra, dec, angle, epoch):
    pmra, pmdec = 500 * np.sin(np.radians(angle)), 500 * np.cos(np.radians(angle))
    wcs = wcs_at(ra, dec, SHAPE, scale=0.1)
    stars = gaia.gaia_sources(wcs, SHAPE, epoch, catalog=one_star(ra, dec, pmra=pmra, pmdec=pmdec))
    # In the tangent plane: 10 arcsec along a great circle, x to the west.
    years = epoch - 2016
    x, y = 249.5 - pmra * years / 100, 249.5 + pmdec * years / 100
    assert np.hypot(stars["x"][0] - x, stars["y"][0] - y) < 1e-3
    assert np.hypot(stars["x"][0] - 249.5, stars["y"][0] - 249.5) == pytest.approx(100, abs=1e-3)
    # A detection at the true place is matched, also within 0.1 px.
    index, distance = gaia.match_pixels([x], [y], stars["x"], stars["y"], radius=0.1)
    assert index.tolist() == [0]


@pytest.mark.parametrize("epoch", [1985.0, 2017.87, 2036.0])
def test_proper_motion_is_astropys(epoch):
    rng = np.random.default_rng(8)
    ra, dec = rng.uniform(0, 360, 1000), np.degrees(np.arcsin(rng.uniform(-1, 1, 1000)))
    ra[:2], dec[:2] = 0.0, [90.0, -90.0]
    pmra, pmdec = rng.normal(0, 3000, (2, 1000))
    star = SkyCoord(ra * u.deg, dec * u.deg, distance=Distance(parallax=np.full(1000, 100.0) * u.mas),
                    pm_ra_cosdec=pmra * u.mas / u.yr, pm_dec=pmdec * u.mas / u.yr,
                    obstime=Time(2016.0, format="jyear", scale="tdb"))  # fmt: skip
    moved = star.apply_space_motion(Time(epoch, format="jyear", scale="tdb"))
    # Both are seen from the barycentre: without a parallax.
    ours = positions_at(ra, dec, epoch, ref_epoch=2016.0, pmra=pmra, pmdec=pmdec, parallax=np.full(1000, np.nan))
    separation = SkyCoord(*ours, unit="deg").separation(SkyCoord(moved.ra, moved.dec))
    assert separation.to_value("mas").max() < 1.0  # 60 arcsec further on; light takes its time for a deeper motion


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (20.0, -75.0)])
def test_parallax_is_the_earths_way_around_the_sun(ra, dec):
    days = np.linspace(2020, 2021, 40, endpoint=False)
    offsets = []
    for epoch in days:
        at_rest = {"ref_epoch": 2016.0, "pmra": [0], "pmdec": [0]}
        there = positions_at(np.array([ra]), np.array([dec]), epoch, **at_rest, parallax=[700.0])
        earth = get_body_barycentric("earth", Time(epoch, format="jyear", scale="tdb"))
        star = SkyCoord(ra * u.deg, dec * u.deg, distance=Distance(parallax=700 * u.mas)).cartesian
        seen = SkyCoord(star - earth).spherical
        truth = SkyCoord(seen.lon, seen.lat)
        place = SkyCoord(*there, unit="deg")
        assert place[0].separation(truth).to_value("mas") < 1e-3
        offsets.append(SkyCoord(ra, dec, unit="deg").spherical_offsets_to(place[0]))
    swing = max(np.hypot(east.to_value("mas"), north.to_value("mas")) for east, north in offsets)
    assert 690 < swing < 730  # the barycentre is not the centre of the Earth's orbit


def test_sources_without_a_proper_motion_stay_and_are_kept():
    table = Table({"ra": [150.0, 150.001], "dec": [2.0, 2.001], "ref_epoch": [2016.0, 2016.0]})
    for name in ("pmra", "pmdec", "parallax"):
        table[name] = np.ma.array([0.0, 3.0], mask=[True, False])
    stars = gaia.gaia_sources(wcs_at(150.0, 2.0, SHAPE), SHAPE, 2036.0, catalog=table)
    assert len(stars) == 2
    assert stars["ra_obs"].value[0] == pytest.approx(150.0, abs=1e-12)


def test_stars_that_moved_in_are_in_and_those_that_moved_out_are_out():
    wcs = wcs_at(150.0, 2.0, SHAPE, scale=0.1)
    ra, dec = wcs.all_pix2world([-500.0, 250.0], [250.0, 250.0], 0)
    table = Table({"source_id": [1, 2], "ra": ra, "dec": dec, "ref_epoch": [2016.0] * 2, "pmra": [-10000.0, 10000.0],
                   "pmdec": [0.0, 0.0]})  # fmt: skip
    now = gaia.gaia_sources(wcs, SHAPE, 2016.0, catalog=table)
    later = gaia.gaia_sources(wcs, SHAPE, 2022.0, catalog=table)
    assert (now["source_id"].tolist(), later["source_id"].tolist()) == ([2], [1])
    assert later["x"][0] == pytest.approx(100.0, abs=0.5)


# When an image was taken -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "year"),
    [
        ({"MJD-AVG": 58070.25, "MJD-OBS": 50000.0, "DATE-OBS": "1999-01-01"}, 2017.8665),
        ({"DATE-AVG": "2017-11-13T06:00:00"}, 2017.8665),
        ({"MJD-OBS": 58070.25, "DATE-OBS": "1999-01-01"}, 2017.8665),
        ({"MJD-OBS": "58070.25"}, 2017.8665),
        ({"DATE-OBS": "2017-11-13T06:03:40.037227"}, 2017.8665),
        ({"DATE-OBS": "2017-11-13T06:03:40Z"}, 2017.8665),
        ({"DATE-OBS": "2017-11-13"}, 2017.8659),
        ({"DATE-OBS": "13/11/97"}, 1997.8658),
        ({"DATE-OBS": "2016-12-31T23:59:60"}, 2017.0),
        ({"MJD-OBS": 0.0, "DATE-OBS": "2017-11-13"}, 2017.8659),
        ({"MJD-OBS": "unknown", "DATE-OBS": "2017-11-13"}, 2017.8659),
        ({"DATE-OBS": "2036-01-01"}, 2036.0),
    ],
)
def test_epoch_from_the_header(cards, year, caplog):
    header = fits.Header(cards)
    with caplog.at_level(logging.INFO, "galprep_dask.gaia"):
        assert gaia.image_epoch(header) == pytest.approx(year, abs=2e-3)
    assert "epoch of the image: J" in caplog.text
    assert gaia.image_epoch(header.tostring(sep="\n")) == gaia.image_epoch(header)
    assert gaia.image_epoch(fits.Header(), header) == gaia.image_epoch(header)


def test_epoch_that_no_header_knows():
    for header in (fits.Header(), fits.Header({"DATE-OBS": ""}), fits.Header({"DATE-OBS": "last night"})):
        with pytest.raises(MissingEpochError, match=r"looked for MJD-AVG.*DATE-OBS.*Pass epoch="):
            gaia.image_epoch(header)


def test_epoch_in_the_primary_header_of_an_image(tmp_path):
    primary = fits.PrimaryHDU(header=fits.Header({"DATE-OBS": "2017-11-13"}))
    fits.HDUList([primary, fits.ImageHDU(np.zeros((5, 5), "f4"))]).writeto(tmp_path / "x.fits")
    image = open_image(tmp_path / "x.fits")
    assert gaia.image_epoch(image) == pytest.approx(2017.866, abs=2e-3)
    write_image(image.drop_vars([]), tmp_path / "y.fits")
    (tmp_path / "x.fits").unlink()
    with pytest.raises(MissingEpochError, match="x.fits"):
        gaia.image_epoch(image)


@pytest.mark.parametrize(
    "epoch", [2017.8665, np.float32(2017.8665), Time("2017-11-13T06:00:00"), "2017-11-13T06:00:00", "J2017.8665"]
)
def test_epochs_in_every_form(epoch):
    assert julian_year(epoch) == pytest.approx(2017.8665, abs=1e-3)


@pytest.mark.parametrize("epoch", [58070.2, np.nan, "soon", None, 20.0, "J"])
def test_epochs_that_are_none(epoch):
    with pytest.raises(ParameterError, match="epoch="):
        julian_year(epoch)
