import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galprep_dask.psf.cuts import Verdicts, quota
from galprep_dask.psf.locus import FEATURES, find_locus, find_mode, galaxy_share
from galprep_dask.psf.match import nearest_source
from galprep_dask.psf.saturation import flat_topped, pile_up

SHAPE = (1000, 800)


def sources(n_stars, n_galaxies, *, seed=0, level=0.5, surface=lambda u, v: 0 * u, share=0.7):
    """Positions, S/N and features of stars on a surface of sizes, and of galaxies of all sizes above it."""
    rng = np.random.default_rng(seed)
    n = n_stars + n_galaxies
    x, y = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
    snr = 50 * rng.uniform(0.001, 1, n) ** -0.8
    size = level + surface(2 * x / SHAPE[1] - 1, 2 * y / SHAPE[0] - 1)
    size[n_stars:] += np.log(rng.lognormal(0, 0.5, n_galaxies) * share + 1)
    features = {name: rng.normal(size=n) * np.hypot(0.01, noise / snr) for name, (_, noise) in FEATURES.items()}
    features["log_width"] = size + rng.normal(size=n) * 1.4 / snr
    return x, y, snr, features


def are_found(locus, x, y, snr, features):
    return np.abs(locus.deviation("log_width", features["log_width"], x, y, snr)) < 3


@pytest.mark.parametrize(("n_stars", "n_galaxies"), [(3, 0), (5, 20), (12, 100), (40, 400), (150, 3000), (2000, 10000)])
def test_locus_of_one_size(n_stars, n_galaxies):
    x, y, snr, features = sources(n_stars, n_galaxies)
    locus = find_locus(x, y, snr, features, SHAPE)
    found = are_found(locus, x, y, snr, features)
    assert found[:n_stars].mean() >= 0.95
    assert locus.expected("log_width", np.array([400.0]), np.array([500.0]))[0] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("n_stars", [40, 120, 600])
def test_locus_follows_a_changing_psf(n_stars):
    """Across the image the sizes of stars change by more than galaxies need to hide among them."""
    x, y, snr, features = sources(n_stars, 6 * n_stars, surface=lambda u, v: 0.12 * u - 0.06 * v + 0.03 * u * v)
    locus = find_locus(x, y, snr, features, SHAPE)
    assert are_found(locus, x, y, snr, features)[:n_stars].mean() >= 0.93


def test_one_source_is_its_own_locus_and_none_has_none():
    x, y, snr, features = sources(1, 0)
    assert are_found(find_locus(x, y, snr, features, SHAPE), x, y, snr, features).all()
    assert find_locus(x[:0], y[:0], snr[:0], {name: v[:0] for name, v in features.items()}, SHAPE) is None


def test_where_no_size_repeats_the_smallest_is_that_of_stars():
    assert find_mode([2.0, 0.5, 1.3], [100.0, 80.0, 900.0]) == 0.5


def test_scatter_is_that_of_the_stars():
    x, y, snr, features = sources(3000, 0)
    locus = find_locus(x, y, snr, features, SHAPE)
    z = locus.deviation("log_width", features["log_width"], x, y, snr)
    assert 1.4826 * np.median(np.abs(z)) == pytest.approx(1, abs=0.15)


def test_galaxies_just_beyond_the_locus_make_it_doubtful():
    rng = np.random.default_rng(0)
    snr = np.full(1100, 60.0)
    clean = np.concatenate([rng.normal(size=1000), rng.uniform(20, 30, 100)])
    assert galaxy_share(clean, snr).max() == 0
    crowded = np.concatenate([rng.normal(size=100), rng.uniform(0, 12, 1000)])
    share = galaxy_share(crowded, snr)
    assert share[np.abs(crowded) < 0.5].mean() < share[np.abs(crowded - 2) < 0.5].mean()
    assert share[crowded > 2].min() > 0.6


def test_peaks_at_one_level_are_saturated():
    rng = np.random.default_rng(1)
    flux = 10 ** rng.uniform(2, 6, 300)
    peak = flux / 12 * rng.uniform(0.9, 1.1, 300)
    assert pile_up(peak, flux) == np.inf
    assert pile_up(np.minimum(peak, 20000.0), flux) == pytest.approx(19400)
    assert pile_up(np.append(np.minimum(peak, 20000.0), 90000.0), np.append(flux, 90000.0)) == pytest.approx(19400)
    assert pile_up(peak[:2], flux[:2]) == np.inf


def test_flat_cores():
    width = np.array([1.0, 1.0, 2.5])
    assert flat_topped(np.array([1, 12, 4]), width).tolist() == [False, True, False]


@settings(max_examples=30)
@given(n=st.integers(1, 60), wanted=st.integers(1, 70), seed=st.integers(0, 1000))
def test_quota_takes_the_best_of_each_region_in_turn(n, wanted, seed):
    rng = np.random.default_rng(seed)
    x, y, snr = rng.uniform(-0.5, 99.5, n), rng.uniform(-0.5, 49.5, n), rng.permutation(n) + 1.0
    kept = quota(x, y, snr, (50, 100), wanted, (2, 3))
    assert kept.sum() == min(n, wanted)
    region = np.floor((y + 0.5) / 25).astype(int) * 3 + np.floor((x + 0.5) / (100 / 3)).astype(int)
    counts = [(kept[region == k].sum(), (region == k).sum()) for k in range(6)]
    for k, (taken, there) in enumerate(counts):
        assert taken == there or taken >= max(c for c, _ in counts) - 1
        if 0 < taken < there:
            assert snr[(region == k) & kept].min() > snr[(region == k) & ~kept].max()


def test_nearest_source_is_within_the_radius():
    found = nearest_source(np.array([0.0, 10.0, np.nan]), np.zeros(3), np.array([np.nan, 1.0, 2.0]), np.zeros(3), 1.5)
    assert found.tolist() == [1, -1, -1]
    assert nearest_source(np.zeros(2), np.zeros(2), np.zeros(0), np.zeros(0), 5.0).tolist() == [-1, -1]


def test_first_reason_stays():
    verdicts = Verdicts(3)
    verdicts.drop(np.array([True, False, False]), "flux: too faint")
    verdicts.drop(np.array([True, True, False]), "axis ratio: elongated")
    assert verdicts.reasons().tolist() == ["flux: too faint", "axis ratio: elongated", ""]
    assert verdicts.left.tolist() == [2]
    assert verdicts.in_words() == "raw 3, flux 2, axis ratio 1"
