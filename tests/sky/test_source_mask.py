import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunks_for

from galprep_dask.errors import NoGoodPixelsError, ParameterError
from galprep_dask.sky import fit_median_sky, source_mask

SHAPE = (120, 140)
SOURCES = [(30, 40, 300.0, 4.0), (80, 100, 80.0, 3.0), (100, 20, 2000.0, 2.0), (0, 139, 300.0, 3.0)]


def field():
    """Noise 1 about 50, with sources; and the light of the sources."""
    y, x = np.indices(SHAPE)
    light = sum(peak * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * s**2)) for y0, x0, peak, s in SOURCES)
    image = 50 + light + np.random.default_rng(0).normal(0, 1, SHAPE)
    image.flags.writeable = False
    return image, light


IMAGE, LIGHT = field()


def test_masks_the_sources_their_wings_and_little_else():
    masked = source_mask(IMAGE, fwhm=3.0, max_grow_size=20)
    assert masked[LIGHT > 1.0].all()
    assert masked[LIGHT < 1e-3].mean() < 0.02
    assert fit_median_sky(IMAGE, masked).level == pytest.approx(50, abs=0.05)


def test_bad_pixels_are_in_the_mask_and_what_they_hold_does_not_count():
    bad = np.zeros(SHAPE, bool)
    bad[60, 60:66] = bad[28:31, 45] = True
    expected = source_mask(IMAGE, bad, fwhm=3.0, max_grow_size=20)
    assert expected[bad].all()
    assert not expected[56:59, 60:66].any()  # a row of bad pixels is no source
    for hidden in (0.0, 1e30, np.nan, np.inf):
        found = source_mask(np.where(bad, hidden, IMAGE), bad, fwhm=3.0, max_grow_size=20)
        np.testing.assert_array_equal(found, expected)
    holes = source_mask(np.where(bad, np.nan, IMAGE), fwhm=3.0, max_grow_size=20)
    np.testing.assert_array_equal(holes, expected)


@settings(max_examples=15)
@given(chunks_for(SHAPE))
def test_same_for_every_chunking(chunks):
    lazy = da.from_array(IMAGE, chunks=chunks, name=False)
    found = source_mask(lazy, fwhm=3.0, max_grow_size=20)
    assert found.chunks == chunks
    np.testing.assert_array_equal(found, source_mask(IMAGE, fwhm=3.0, max_grow_size=20))


@settings(max_examples=10)
@given(st.sampled_from([2.0**-60, 2.0**20]), st.sampled_from([-50.0, 0.0, 50.0]))
def test_same_in_other_units_and_on_another_level(unit, level):
    image = np.round((IMAGE - 50) * 1024) / 1024  # exact in every unit
    expected = source_mask(image, fwhm=3.0, max_grow_size=20)
    np.testing.assert_array_equal(source_mask((image + level) * unit, fwhm=3.0, max_grow_size=20), expected)


def test_kind_of_the_result():
    assert type(source_mask(IMAGE, fwhm=3.0)) is np.ndarray
    assert isinstance(source_mask(da.from_array(IMAGE, chunks=50), fwhm=3.0), da.Array)
    named = xr.DataArray(da.from_array(IMAGE, chunks=50), dims=("y", "x"), coords={"x": np.arange(140.0)})
    found = source_mask(named, fwhm=3.0)
    assert isinstance(found.data, da.Array)
    assert found.dims == ("y", "x")
    assert found.dtype == bool
    np.testing.assert_array_equal(found["x"], named["x"])


def test_means_of_whole_numbers_are_not_cut_to_whole_numbers():
    counts = np.round(20 * IMAGE).astype(np.int32)
    search = {"fwhm": 3.0, "max_grow_size": 20, "faint_scales": (1, 4)}
    np.testing.assert_array_equal(source_mask(counts, **search), source_mask(counts.astype(float), **search))


def test_every_parameter_counts():
    base = {"fwhm": 3.0, "max_grow_size": 20}
    area = source_mask(IMAGE, **base).sum()
    assert source_mask(IMAGE, **base, n_sigma=30).sum() != area
    assert source_mask(IMAGE, **base, n_pixels=150).sum() < area
    assert source_mask(IMAGE, **base, addgrow=3).sum() > area
    assert source_mask(IMAGE, **{**base, "max_grow_size": 1}).sum() < area
    assert source_mask(IMAGE, **{**base, "fwhm": 9.0}).sum() != area
    two = np.random.default_rng(0).normal(0, 0.01, (40, 40))
    two[10:14, 10:14] = two[14:18, 14:18] = 100.0
    few = {"fwhm": 0.1, "n_pixels": 17, "max_grow_size": 0}
    assert source_mask(two, **few, connectivity=8).sum() == 32
    assert source_mask(two, **few, connectivity=4).sum() == 0


def test_pure_sky_gives_an_empty_mask_without_a_warning():
    assert not source_mask(np.random.default_rng(0).normal(0, 1, (50, 50)), fwhm=3.0, n_sigma=5).any()


def test_errors():
    with pytest.raises(NoGoodPixelsError):
        source_mask(IMAGE, np.ones(SHAPE, bool), fwhm=3.0)
    for wrong in ({"fwhm": 0}, {"n_pixels": 0}, {"connectivity": 6}, {"max_grow_size": -1}, {"addgrow": -1}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            source_mask(IMAGE, **{"fwhm": 3.0, **wrong})
