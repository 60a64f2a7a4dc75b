import numpy as np
import pytest
from astropy.coordinates import FK4, Galactic, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from fields_on_sky import stars_around, wcs_at
from hypothesis import given, settings
from hypothesis import strategies as st

from galprep_dask import gaia
from galprep_dask.errors import MissingWCSError, ParameterError
from galprep_dask.gaia.footprint import cells_of, cut_to, unit_vectors

declinations = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 89.99, -89.95, 0.0]))
right_ascensions = st.one_of(st.floats(0, 360), st.sampled_from([0.0, 359.999, 0.001, 180.0]))
fields = st.builds(
    lambda ra, dec, ny, nx, scale, angle: (wcs_at(ra, dec, (ny, nx), scale, angle), (ny, nx)),
    right_ascensions, declinations, st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([0.05, 0.26, 1.0]),
    st.floats(0, 360),
)  # fmt: skip


@given(fields, st.integers(0, 1000))
@settings(max_examples=20)
def test_every_star_of_an_image_is_in_its_boxes_and_cells(field, seed):
    wcs, shape = field
    ra, dec, x, y = stars_around(wcs, shape, 200, seed=seed, spread=1.0)
    footprint = gaia.make_footprint(wcs, shape)
    assert cut_to(footprint, ra, dec).all()
    assert cut_to(footprint, ra - 360, dec).all()
    np.testing.assert_allclose(footprint.to_pixels(ra, dec), (x, y), atol=1e-5)
    assert footprint.contains(x, y).all()
    for size in (0.3, 2.0):
        counted = np.zeros(len(ra), int)
        for cell in cells_of(footprint, size):
            inside = (ra >= cell.ra_min) & (ra < cell.ra_max) & (dec >= cell.dec_min)
            inside &= (dec < cell.dec_max) | ((cell.dec_max == 90) & (dec == 90))
            counted += inside
            ra0, dec0, radius = cell.cap()
            cosine = unit_vectors(ra[inside], dec[inside]) @ unit_vectors(ra0, dec0)
            assert (cosine >= np.cos(np.radians(radius)) - 1e-12).all()
        np.testing.assert_array_equal(counted, 1)


def test_caps_are_not_much_larger_than_the_image():
    shape = (4000, 4000)
    footprint = gaia.make_footprint(wcs_at(0.0, 60.0, shape), shape)
    area = sum((box.ra_max - box.ra_min) * (box.dec_max - box.dec_min) for box in footprint.hull())
    assert area * np.cos(np.radians(60)) < 1.3 * (4000 * 0.26 / 3600) ** 2
    assert [box.ra_max for box in footprint.hull()].count(360.0) == 1  # two boxes, one on either side of zero


def test_the_pole_has_all_right_ascensions():
    footprint = gaia.make_footprint(wcs_at(12.0, 90.0, (100, 100)), (100, 100))
    (box,) = footprint.hull()
    assert (box.ra_min, box.ra_max, box.dec_max) == (0.0, 360.0, 90.0)


def test_motion_and_margin_widen_it():
    wcs, shape = wcs_at(50.0, 20.0, (1000, 1000)), (1000, 1000)
    small = gaia.make_footprint(wcs, shape)
    wide = gaia.make_footprint(wcs, shape, motion_deg=0.1)
    margin = gaia.make_footprint(wcs, shape, margin_arcsec=26.0)
    assert wide.hull()[0].dec_max - small.hull()[0].dec_max == pytest.approx(0.1, abs=1e-9)
    assert margin.margin_px == pytest.approx(100.0)
    assert margin.contains(np.array([-100.4]), np.array([5.0])).all()
    assert not margin.contains(np.array([-100.6]), np.array([5.0])).any()
    assert not small.contains(np.array([-0.6, np.nan]), np.array([5.0, 5.0])).any()


def test_the_other_side_of_the_sky_is_not_in_the_image():
    footprint = gaia.make_footprint(wcs_at(30.0, 40.0, (100, 100)), (100, 100))
    x, y = footprint.to_pixels([30.0, 210.0, np.nan], [40.0, -40.0, 1.0])
    assert np.isfinite(x).tolist() == [True, False, False]


@pytest.mark.parametrize("frame", [Galactic(), FK4(equinox="B1950")])
def test_other_frames_of_a_wcs(frame):
    place = SkyCoord(150.0, 2.0, unit="deg").transform_to(frame).spherical
    wcs = wcs_at(place.lon.deg, place.lat.deg, (100, 100))
    if isinstance(frame, Galactic):
        wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    else:
        wcs.wcs.radesys, wcs.wcs.equinox = "FK4", 1950.0
    footprint = gaia.make_footprint(wcs, (100, 100))
    x, y = footprint.to_pixels([150.0], [2.0])
    np.testing.assert_allclose([x[0], y[0]], 49.5, atol=1e-3)
    assert cut_to(footprint, np.array([150.0]), np.array([2.0])).all()


def test_headers_and_text_are_taken_too():
    wcs = wcs_at(150.0, 2.0, (100, 80))
    header = wcs.to_header()
    for given_wcs in (header, header.tostring(sep="\n"), wcs):
        footprint = gaia.make_footprint(given_wcs, (100, 80))
        np.testing.assert_allclose(footprint.to_pixels([150.0], [2.0]), [[39.5], [49.5]], atol=1e-6)


def test_whole_sky():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.cdelt = ["RA---AIT", "DEC--AIT"], [180.5, 90.5], [-1.0, 1.0]
    footprint = gaia.make_footprint(wcs, (180, 360))
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 500), np.degrees(np.arcsin(rng.uniform(-1, 1, 500)))
    assert cut_to(footprint, ra, dec).all()
    assert footprint.contains(*footprint.to_pixels(ra, dec)).mean() > 0.99


def test_what_has_no_place_on_the_sky():
    with pytest.raises(MissingWCSError):
        gaia.make_footprint(fits.Header(), (10, 10))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.cdelt = ["RA---AIT", "DEC--AIT"], [-5000.0, 0.0], [-1.0, 1.0]
    with pytest.raises(MissingWCSError, match="no pixel of the image is on the sky"):
        gaia.make_footprint(wcs, (10, 10))
    with pytest.raises(ParameterError, match="margin_arcsec"):
        gaia.make_footprint(wcs_at(1, 1, (10, 10)), (10, 10), margin_arcsec=np.nan)
