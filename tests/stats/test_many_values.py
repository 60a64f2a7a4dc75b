"""Windows that hold more values than are gathered, and more cells than are kept."""

import dask.array as da
import numpy as np
import pytest
from clipping import assert_matches, clip_sorted, field

from galprep_dask.stats import sigma_clipped_stats
from galprep_dask.stats._kernels import measure, plan, summary, windows

SHAPE = (600, 512)


def image_of(name):
    rng = np.random.default_rng(4)
    return {
        "lognormal": lambda: rng.lognormal(0, 1, SHAPE),
        "exponential": lambda: rng.standard_exponential(SHAPE),
        "t": lambda: rng.standard_t(2, SHAPE),
        "half zeros": lambda: np.where(rng.uniform(size=SHAPE) < 0.6, 0.0, rng.normal(2, 3, SHAPE)),
        "steps": lambda: np.round(rng.normal(0, 3, SHAPE) * 4) / 4 + 0.1,
    }.get(name, lambda: field(name, SHAPE))()


NAMES = ["lognormal", "exponential", "t", "Cauchy", "sky and sources", "high level", "normal", "half zeros"]


def clipped(image, sigma, maxiters, chunks=(130, 512)):
    return sigma_clipped_stats(da.from_array(image, chunks=chunks, name=False), sigma=sigma, maxiters=maxiters)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("maxiters", "sigma"), [(5, 3.0), (None, 3.0), (None, 2.0)])
def test_gathering_near_a_trial_is_exact(name, maxiters, sigma, monkeypatch):
    image = image_of(name)
    monkeypatch.setattr(plan, "_MAX_VALUES", image.size // 10)
    monkeypatch.setattr(plan, "_MAX_GROUPS", 2**12)
    assert_matches(clipped(image, sigma, maxiters), clip_sorted(image, sigma, maxiters))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("maxiters", "sigma"), [(5, 3.0), (None, 3.0), (None, 2.0)])
def test_groups_alone_are_good_to_a_few_of_their_values(name, maxiters, sigma, monkeypatch):
    image = image_of(name)
    monkeypatch.setattr(plan, "_MAX_VALUES", 0)
    monkeypatch.setattr(plan, "_MAX_GROUPS", 2**15)  # ten values each
    expected = clip_sorted(image, sigma, maxiters)
    for chunks in ((600, 512), (90, 77)):
        found = clipped(image, sigma, maxiters, chunks)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected[2])


@pytest.mark.parametrize("name", ["half zeros", "steps", "mostly equal"])
@pytest.mark.parametrize(("maxiters", "sigma"), [(0, 3.0), (5, 3.0), (None, 2.0)])
def test_groups_of_equal_values_are_exact(name, maxiters, sigma, monkeypatch):
    image = image_of(name)
    monkeypatch.setattr(plan, "_MAX_VALUES", 0)
    found, expected = clipped(image, sigma, maxiters), clip_sorted(image, sigma, maxiters)
    assert found[1] == expected[1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * expected[2])


def test_no_more_is_gathered_than_allowed(monkeypatch):
    image = image_of("t")
    monkeypatch.setattr(plan, "_MAX_VALUES", 20_000)
    cells = summary.count_cells(image)
    cells = windows.sort_cells(*summary.cell_bounds(cells, image.dtype), cells.n)
    planned = plan.plan_second_pass(cells, 2.0, None)
    measured = measure.measure_block(image, None, planned)
    assert 0 < len(measured.values) <= 20_000
    assert len(measured.sums) <= plan._MAX_GROUPS + 2 * len(planned.windows) + 1
    assert measured.sums[:, 0].sum() + len(measured.values) == image.size
    assert (planned.windows[1:, 0] > planned.windows[:-1, 1]).all()


def test_groups_of_two_values_or_of_equal_ones_are_known_exactly(monkeypatch):
    image = np.array([[0.0, 1.0, 1.0, 1.0, 5.0, 6.0, 8.0, 9.0]])
    monkeypatch.setattr(plan, "_MAX_VALUES", 0)
    for sigma, maxiters in ((3.0, 0), (1.0, 1), (1.2, None)):
        assert_matches(sigma_clipped_stats(image, sigma=sigma, maxiters=maxiters), clip_sorted(image, sigma, maxiters))


@pytest.mark.parametrize("name", ["normal", "sky and sources", "high level", "Cauchy"])
@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_few_cells_are_enough(name, sigma, monkeypatch):
    monkeypatch.setattr(summary, "_MAX_CELLS", 2000)
    image = field(name)
    for maxiters in (0, 5):
        assert_matches(clipped(image, sigma, maxiters, (64, 64)), clip_sorted(image, sigma, maxiters))
