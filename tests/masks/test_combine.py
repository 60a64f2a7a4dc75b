import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.nddata.bitmask import bitfield_to_boolean_mask, extend_bit_flag_map
from hypothesis import given
from hypothesis import strategies as st
from strategies import chunked, chunks_for

from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.masks import combine_masks, flag_mask

QUALITY = np.arange(256, dtype="u1").reshape(8, 32)
NAMES = {"SKY": 1, "CR": 2, "HOT": 4, "DEAD": 128}


@given(st.integers(0, 2**32 - 1), chunks_for((13, 17)), chunks_for((13, 17)))
def test_union_of_masks_of_any_kind_and_chunks(seed, chunks, other_chunks):
    rng = np.random.default_rng(seed)
    one, two, three = rng.uniform(size=(3, 13, 17)) < 0.3
    for mask in (one, two, three):
        mask.flags.writeable = False
    expected = one | two | three
    lazy = da.from_array(one, chunks=chunks, name=False)
    other = xr.DataArray(da.from_array(two.astype("f4"), chunks=other_chunks, name=False), dims=("y", "x"))
    found = combine_masks(None, lazy, other, None, three.astype(">i2") * 7)
    assert found.chunks == chunks
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected)
    assert type(combine_masks(three, lazy)) is np.ndarray
    np.testing.assert_array_equal(combine_masks(three, lazy, other), expected)


def test_one_mask_becomes_bool_and_xarray_stays_xarray(no_compute):
    named = xr.DataArray(da.from_array(QUALITY, chunks=5), dims=("y", "x"), coords={"y": np.arange(8.0)})
    with no_compute():
        found = combine_masks(named)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, QUALITY > 0)
    np.testing.assert_array_equal(found["y"], named["y"])


@given(
    chunked("i8"), st.sampled_from(["u1", "i1", ">i2", ">u2", "i4", "u4", "i8", "u8"]),
    st.sampled_from([None, 0, 5, [4, 64], "1,8", "~2", ~6]), st.sampled_from([0, 4, [1, 2], "64", "~128"]),
)  # fmt: skip
def test_flags_are_those_of_astropy_on_the_whole_image(images, dtype, bits, ignored):
    whole, lazy = images
    whole = whole.astype(dtype)
    found = flag_mask(lazy.astype(dtype), bits, ignore_flags=ignored)
    assert found.chunks == lazy.chunks
    counted = whole.astype(whole.dtype.newbyteorder("=")).astype("i8")
    if bits is not None:
        counted = counted & _value(bits)
    expected = bitfield_to_boolean_mask(counted & _low_bits(whole.dtype), ignore_flags=ignored)
    np.testing.assert_array_equal(found, expected)


def _value(bits):
    if isinstance(bits, str):
        bits = ~int(bits[1:]) if bits.startswith("~") else [int(bit) for bit in bits.split(",")]
    return sum(bits) if isinstance(bits, list) else bits


def _low_bits(dtype):
    return -1 if dtype.itemsize == 8 else 2 ** (8 * dtype.itemsize) - 1


@pytest.mark.parametrize("names", [NAMES, extend_bit_flag_map("QUALITY", **NAMES)])
def test_flags_by_name(names):
    hot_or_dead = (QUALITY & 132) > 0
    np.testing.assert_array_equal(flag_mask(QUALITY, "HOT,DEAD", flag_names=names), hot_or_dead)
    np.testing.assert_array_equal(flag_mask(QUALITY, ["HOT", "DEAD"], flag_names=names), hot_or_dead)
    np.testing.assert_array_equal(flag_mask(QUALITY, "~SKY", flag_names=names), QUALITY > 1)
    np.testing.assert_array_equal(flag_mask(QUALITY, ignore_flags="SKY", flag_names=names), QUALITY > 1)
    both = flag_mask(QUALITY, "HOT+DEAD", ignore_flags="DEAD", flag_names=names)
    np.testing.assert_array_equal(both, (QUALITY & 4) > 0)


def test_the_sign_bit_is_a_flag_and_bits_that_the_image_cannot_hold_are_never_set():
    signed = QUALITY.view("i1")
    np.testing.assert_array_equal(flag_mask(signed, 128), QUALITY >= 128)
    np.testing.assert_array_equal(flag_mask(signed, ignore_flags=127), QUALITY >= 128)
    assert not flag_mask(signed, 256).any()
    np.testing.assert_array_equal(flag_mask(np.array([[-(2**63), 1]]), 2**63), [[True, False]])


def test_kinds_laziness_and_untouched_input(no_compute):
    quality = QUALITY.copy()
    quality.flags.writeable = False
    assert type(flag_mask(quality)) is np.ndarray
    with no_compute():
        found = flag_mask(xr.DataArray(da.from_array(quality, chunks=5), dims=("y", "x")), 3)
    assert isinstance(found.data, da.Array)
    np.testing.assert_array_equal(found, (QUALITY & 3) > 0)


def test_errors():
    with pytest.raises(ParameterError, match="no mask"):
        combine_masks(None)
    with pytest.raises(ImageShapeError, match=r"mask 3 of 3 has shape \(3, 3\), but mask 1 of 3 has \(8, 32\)"):
        combine_masks(QUALITY, None, np.zeros((3, 3)))
    with pytest.raises(ParameterError, match="flags has dtype float32; expected integers"):
        flag_mask(QUALITY.astype("f4"))
    with pytest.raises(ParameterError, match="flags has dtype bool"):
        flag_mask(QUALITY > 3)
    with pytest.raises(ImageShapeError, match="flags has shape"):
        flag_mask(QUALITY[0])
    for wrong in ([3], "4,5", "HOT", "4,~8", 2.5, ["HOT"], "", [2, "HOT"]):
        with pytest.raises(ParameterError, match="bits="):
            flag_mask(QUALITY, wrong)
        with pytest.raises(ParameterError, match="ignore_flags="):
            flag_mask(QUALITY, ignore_flags=wrong)
    with pytest.raises(ParameterError, match="'COLD' names no flags.*SKY, CR, HOT, DEAD"):
        flag_mask(QUALITY, "COLD", flag_names=NAMES)
