import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from galprep_dask import gaia
from galprep_dask.errors import NoMatchWarning, ParameterError

positions = hnp.arrays(float, st.integers(1, 12).map(lambda n: (n, 2)), elements=st.integers(0, 12).map(float))


def by_hand(sources, stars, radius):
    """The closest pair, then the closest of what is left, and so on."""
    pairs = sorted(
        (np.hypot(*(source - star)), i, j) for i, source in enumerate(sources) for j, star in enumerate(stars)
    )
    index = np.full(len(sources), -1)
    for distance, i, j in pairs:
        if distance <= radius and index[i] < 0 and j not in index:
            index[i] = j
    return index


@given(positions, positions, st.sampled_from([0.5, 1.0, 2.0, 5.0]))
@pytest.mark.filterwarnings("ignore::galprep_dask.errors.NoMatchWarning")
def test_the_closest_pairs_are_taken_first(sources, stars, radius):
    index, distance = gaia.match_pixels(*sources.T, *stars.T, radius=radius)
    np.testing.assert_array_equal(index, by_hand(sources, stars, radius))
    found = index >= 0
    np.testing.assert_allclose(distance[found], np.hypot(*(sources[found] - stars[index[found]]).T))
    assert np.isnan(distance[~found]).all()
    assert len(np.unique(index[found])) == found.sum()


@pytest.mark.parametrize("dec", [0.0, 60.0, 89.99, -90.0])
def test_on_the_sky(dec):
    rng = np.random.default_rng(3)
    base = SkyCoord(rng.uniform(0, 360, 300), np.clip(dec + rng.uniform(-0.01, 0.01, 300), -90, 90), unit="deg")
    seen = base.directional_offset_by(rng.uniform(0, 360, 300) * u.deg, 0.3 * u.arcsec)
    index, distance = gaia.match_sky(seen.ra.deg, seen.dec.deg, base.ra.deg, base.dec.deg, radius_arcsec=1.0)
    found = index >= 0
    assert found.mean() > 0.95  # others are closer to a neighbour
    np.testing.assert_allclose(distance[found], seen[found].separation(base[index[found]]).arcsec, atol=1e-6)
    assert (distance[found] <= 1.0).all()


def test_across_zero_and_with_units():
    table = QTable({"ra": [359.99999], "dec": [10.0]}, units={"ra": "deg", "dec": "deg"})
    index, distance = gaia.match_sky(table["ra"], table["dec"], [0.00001], [10.0], radius_arcsec=0.1)
    assert index.tolist() == [0]
    assert distance[0] == pytest.approx(0.072 * np.cos(np.radians(10)), rel=1e-3)


def test_identical_positions_have_distance_zero():
    index, distance = gaia.match_pixels([5.0, 9.0], [5.0, 9.0], [9.0, 5.0], [9.0, 5.0], radius=1.0)
    assert index.tolist() == [1, 0]
    assert distance.tolist() == [0.0, 0.0]


def test_positions_that_are_not_finite_match_nothing():
    index, _ = gaia.match_pixels([np.nan, 5.0], [5.0, 5.0], [np.nan, 5.1], [5.0, 5.0], radius=1.0)
    assert index.tolist() == [-1, 1]


def test_an_empty_match_is_a_warning_that_says_how_far_off():
    with pytest.warns(NoMatchWarning, match="none of 2 sources .* 1 stars within 3 px; the closest two are 40 px"):
        index, distance = gaia.match_pixels([10.0, 90.0], [0.0, 0.0], [50.0], [0.0], radius=3.0)
    assert index.tolist() == [-1, -1]
    assert np.isnan(distance).all()
    with pytest.warns(NoMatchWarning, match="within 1 arcsec; the closest two are 3.6e"):
        gaia.match_sky([10.0], [0.0], [11.0], [0.0], radius_arcsec=1.0)


def test_nothing_to_match_is_an_empty_result():
    for sources, stars in [([], [1.0]), ([1.0], []), ([], [])]:
        index, distance = gaia.match_pixels(sources, sources, stars, stars, radius=1.0)
        assert len(index) == len(distance) == len(sources)


def test_many_rows():
    rng = np.random.default_rng(5)
    n = 100_000
    x, y = rng.uniform(0, 20000, n), rng.uniform(0, 20000, n)
    order = rng.permutation(n)
    index, distance = gaia.match_pixels(x, y, x[order] + 0.01, y[order], radius=6.0)
    assert (index >= 0).all()
    assert (order[index] == np.arange(n)).mean() > 0.9999
    np.testing.assert_array_equal(np.sort(index), np.arange(n))


@pytest.mark.parametrize("radius", [0, -1, np.nan, np.inf])
def test_radius_that_makes_no_sense(radius):
    with pytest.raises(ParameterError, match="radius="):
        gaia.match_pixels([1], [1], [1], [1], radius=radius)
    with pytest.raises(ParameterError, match="radius="):
        gaia.match_sky([1], [1], [1], [1], radius_arcsec=radius)


def test_coordinates_that_differ_in_number():
    with pytest.raises(ParameterError, match="x has 2 values, but y has 1"):
        gaia.match_pixels([1, 2], [1], [1], [1], radius=1)
