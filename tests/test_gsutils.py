import math

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from galprep_dask.errors import ParameterError
from galprep_dask.gsutils import normimg

pixels = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6))
any_pixels = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(allow_nan=False))
scalings = st.builds(
    lambda immin, ratio, frac: {"immin": immin, "immax": immin * ratio, "frac": frac},
    st.floats(1e-3, 1e3),
    st.floats(1.001, 1e4),
    st.floats(0.01, 0.99),
)


@given(any_pixels, scalings)
def test_odd_about_a_sky_of_zero_to_the_bit(data, scaling):
    np.testing.assert_array_equal(normimg(-data, **scaling), -normimg(data, **scaling))


@given(pixels, st.floats(-1e4, 1e4), scalings)
def test_odd_about_any_sky_to_the_bit(data, sky, scaling):
    above = normimg(data, sky=sky, **scaling)
    np.testing.assert_array_equal(normimg(-data, sky=-sky, **scaling), -above)


@given(st.integers(-(2**40), 2**40), st.integers(0, 2**40), scalings)
def test_pixels_at_the_same_distance_mirror_each_other(sky, distance, scaling):
    above, below = normimg(np.array([sky + distance, sky - distance]), sky=sky, **scaling)
    assert above == -below


@given(any_pixels, st.floats(-1e4, 1e4), scalings)
def test_bounded_and_monotone(data, sky, scaling):
    scaled = normimg(np.sort(data), sky=sky, **scaling)
    assert np.all(np.abs(scaled) <= 1)
    assert np.all(np.diff(scaled) >= -1e-15)


@given(st.floats(-1e3, 1e3), scalings)
def test_sky_is_zero_and_beyond_immax_is_one(sky, scaling):
    data = [sky, sky + 2 * scaling["immax"], sky - 2 * scaling["immax"]]
    np.testing.assert_array_equal(normimg(data, sky=sky, **scaling), [0, 1, -1])


@given(scalings)
def test_exact_at_the_joints(scaling):
    joints = np.array([scaling["immin"] / 2, scaling["immin"], scaling["immax"]])
    np.testing.assert_array_equal(normimg(joints, **scaling), [scaling["frac"] / 2, scaling["frac"], 1])


@given(scalings)
def test_continuous_where_the_logarithm_begins(scaling):
    immin = scaling["immin"]
    below, above = normimg(np.array([np.nextafter(immin, 0), np.nextafter(immin, np.inf)]), **scaling)
    # One step of float64 moves the logarithmic part by eps / ln(immax / immin).
    step = 4 * np.finfo(float).eps / math.log(scaling["immax"] / immin)
    assert below <= scaling["frac"] <= above
    assert above - below <= step + 2e-16


def test_known_values():
    data = np.array([-1000.0, -100, -10, -5, 0, 1, 10, 100, 1000, 1e5])
    expected = [-1, -0.75, -0.5, -0.25, 0, 0.05, 0.5, 0.75, 1, 1]
    np.testing.assert_allclose(normimg(data, 10, 1000), expected, atol=1e-15)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [0.1, 0.8]),
        ({"immin": 5}, [0.2, 0.826165]),
        ({"immax": 400}, [0.1, 0.874518]),
        ({"sky": 1}, [0.05, 0.799311]),
        ({"frac": 0.6}, [0.12, 0.84]),
    ],
)
def test_every_parameter_matters(changed, expected):
    scaled = normimg(np.array([2.0, 10 * 10**1.2]), **({"immin": 10, "immax": 1000} | changed))
    np.testing.assert_allclose(scaled, expected, atol=2e-6)


def test_not_finite_pixels():
    np.testing.assert_array_equal(normimg([np.nan, np.inf, -np.inf], 1, 5, sky=3), [np.nan, 1, -1])


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<u2", ">i4", "i8", "u8", "f2", ">f4", "<f4", ">f8", "?"])
def test_every_real_dtype_becomes_float64_and_stays_as_it_was(dtype):
    data = np.array([[0, 1], [3, 100]]).astype(dtype)
    before = data.copy()
    data.flags.writeable = False
    scaled = normimg(data, 2, 50, sky=1)
    assert scaled.dtype == np.float64
    assert scaled.dtype.isnative
    np.testing.assert_array_equal(scaled, normimg(before.astype(float), 2, 50, sky=1))
    np.testing.assert_array_equal(data, before)


def test_unsigned_pixels_below_the_sky_do_not_wrap_around():
    np.testing.assert_array_equal(normimg(np.array([0, 4], "u2"), 4, 8, sky=2), [-0.25, 0.25])


def test_numbers_give_numbers():
    scaled = normimg(5, 10, 1000)
    assert isinstance(scaled, float)
    assert scaled == 0.25
    assert np.ndim(normimg(np.float32(5), 10, 1000)) == 0


def test_dask_stays_lazy_and_gives_the_same(no_compute):
    data = np.random.default_rng(1).normal(3, 20, (23, 31)).astype(">f4")
    with no_compute():
        lazy = normimg(da.from_array(data, chunks=(7, 9)), 5, 30, sky=3)
        assert isinstance(lazy, da.Array)
        assert lazy.chunks == da.from_array(data, chunks=(7, 9)).chunks
        assert lazy.dtype == np.float64
        assert len(dict(lazy.__dask_graph__())) <= 8 * lazy.npartitions
    np.testing.assert_array_equal(lazy.compute(), normimg(data, 5, 30, sky=3))


def test_xarray_keeps_dims_coordinates_and_laziness(no_compute):
    values = da.random.default_rng(2).normal(size=(6, 8), chunks=3)
    data = xr.DataArray(
        values, dims=("y", "x"), coords={"x": np.arange(8.0)}, name="data", attrs={"unit": "adu"}
    )
    with no_compute():
        scaled = normimg(data, 0.5, 2)
    assert isinstance(scaled.data, da.Array)
    assert scaled.dims == data.dims
    assert scaled.name == "data"
    assert "unit" not in scaled.attrs
    assert data.attrs == {"unit": "adu"}
    xr.testing.assert_equal(scaled["x"], data["x"])
    np.testing.assert_array_equal(scaled, normimg(values.compute(), 0.5, 2))


def test_xarray_in_memory_gives_xarray_in_memory():
    scaled = normimg(xr.DataArray(np.eye(3), dims=("y", "x")), 0.5, 2)
    assert isinstance(scaled.data, np.ndarray)


@pytest.mark.parametrize("under", [0.0, 1e30, np.nan])
def test_masked_arrays_keep_their_mask(under):
    data = np.ma.MaskedArray([1.0, under, 100.0], mask=[False, True, False])
    scaled = normimg(data, 2, 100)
    assert isinstance(scaled, np.ma.MaskedArray)
    np.testing.assert_array_equal(scaled.mask, [False, True, False])
    np.testing.assert_array_equal(scaled.compressed(), [0.25, 1])
    scaled.mask[0] = True
    assert not data.mask[0]
    assert normimg(np.ma.MaskedArray([1.0]), 2, 100).mask is np.ma.nomask


def test_masked_blocks_of_dask_keep_their_mask():
    data = np.ma.masked_greater(np.arange(12.0).reshape(3, 4), 7)
    scaled = normimg(da.from_array(data, chunks=2), 2, 100).compute()
    np.testing.assert_array_equal(scaled.mask, data.mask)
    np.testing.assert_array_equal(scaled.compressed(), normimg(data, 2, 100).compressed())


def test_scaling_from_lazy_statistics():
    data = np.random.default_rng(3).normal(10, 2, (20, 20))
    lazy = da.from_array(data, chunks=8)
    scaled = normimg(data, lazy.std(), 5 * lazy.std(), sky=lazy.mean(), frac=0.6)
    expected = normimg(
        data, lazy.std().compute(), 5 * lazy.std().compute(), sky=lazy.mean().compute(), frac=0.6
    )
    np.testing.assert_array_equal(scaled, expected)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"immin": 0}, "immin=0.0"),
        ({"immin": -1}, "immin=-1.0"),
        ({"immax": 0}, "immax=0.0"),
        ({"immax": -2}, "immax=-2.0"),
        ({"immin": np.nan}, "immin=nan"),
        ({"immax": np.inf}, "immax=inf"),
        ({"immax": np.nan}, "immax=nan"),
        ({"immin": "faint"}, "immin='faint'"),
        ({"immax": [1, 2]}, r"immax=\[1, 2\]"),
        ({"sky": np.nan}, "sky=nan"),
        ({"frac": 0}, "frac=0.0"),
        ({"frac": 1}, "frac=1.0"),
        ({"frac": np.nan}, "frac=nan"),
    ],
)
def test_errors_name_the_value(wrong, named):
    with pytest.raises(ParameterError, match=named):
        normimg(np.zeros(3), **({"immin": 1, "immax": 5} | wrong))


@pytest.mark.parametrize("immax", [3.0, 5.0])
def test_no_logarithmic_part_where_immax_is_not_above_immin(immax):
    scaled = normimg(np.array([-9.0, -5.0, -2.0, 0.0, 2.5, 5.0, 5.1, np.nan]), immin=5, immax=immax, frac=0.4)
    np.testing.assert_array_equal(scaled, [-1, -0.4, -0.16, 0, 0.2, 0.4, 1, np.nan])


@pytest.mark.parametrize("data", [np.zeros(3, complex), np.array(["a"]), da.zeros(3, dtype=complex)])
def test_pixels_that_are_no_real_numbers(data):
    with pytest.raises(ParameterError, match="dtype"):
        normimg(data, 1, 5)


def test_nothing_is_computed_for_a_wrong_parameter(no_compute):
    with no_compute(), pytest.raises(ParameterError):
        normimg(da.zeros((4, 4)), 1, 5, frac=2)
    assert dask.config.get("scheduler", None) is None
