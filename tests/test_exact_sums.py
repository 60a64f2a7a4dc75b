import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galprep_dask._kernels.exact_sums import add_pixel, as_float, float_format, normalise, piece_of, pieces_between


def exponents(values, mantissa):
    return (values.view(np.int64 if mantissa > 31 else np.int32).astype(np.int64) >> mantissa) & (
        0x7FF if mantissa > 31 else 0xFF
    )


def summed(values, parts=1):
    """Sum as blocks do: each part apart, in pieces of its own range, and then all together."""
    integer, mantissa, shift = float_format(values.dtype)
    total, total_first = np.zeros(80, np.int64), 0
    for part in np.array_split(values, parts):
        places = [int(piece_of(e, shift)) for e in exponents(part, mantissa)[part != 0]] or [0]
        first = min(places)
        pieces = np.zeros(pieces_between(first, max(places), mantissa), np.int64)
        for bits in part.view(integer):
            add_pixel(pieces, first, bits, mantissa, shift)
        normalise(pieces)
        total[first - total_first :][: len(pieces)] += pieces
    normalise(total)
    return as_float(total, total_first)


def floats(width):
    return st.floats(width=width, allow_nan=False, allow_infinity=False)


@settings(max_examples=300)
@given(st.lists(floats(64), max_size=30), st.integers(1, 4))
def test_sums_of_float64_are_those_of_fsum(values, parts):
    values = np.array(values) / 64  # so that fsum does not overflow
    assert summed(values, parts) == math.fsum(values.tolist())


@settings(max_examples=300)
@given(st.lists(floats(32), max_size=30), st.integers(1, 4))
def test_sums_of_float32_are_those_of_fsum(values, parts):
    assert summed(np.array(values, np.float32), parts) == math.fsum(values)


@settings(max_examples=200)
@given(st.lists(st.sampled_from([1.0, 2.0**-53, 2.0**-54, 2.0**-105, 1 + 2.0**-52]), max_size=6), st.booleans())
def test_halves_are_rounded_to_even_and_what_is_far_below_decides(values, negative):
    values = np.array(values) * (-1 if negative else 1)
    assert summed(values) == math.fsum(values.tolist())


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_order_does_not_matter_where_floats_would_lose_everything(dtype):
    values = np.array([1e30, 1.0, -1e30, 1e-12, 3e7, -1.0, 1e30, -1e30] * 50, dtype)
    exact = float(sum(Fraction(float(value)) for value in values))
    rng = np.random.default_rng(0)
    for _ in range(20):
        rng.shuffle(values)
        assert summed(values, 7) == exact


def test_subnormal_numbers_zeros_and_the_largest():
    tiny = 5e-324
    assert summed(np.array([tiny] * 3)) == 3 * tiny
    assert summed(np.array([2.0**-1022, -tiny])) == 2.0**-1022 - tiny
    assert summed(np.array([0.0, -0.0])) == 0
    assert summed(np.array([], np.float32)) == 0
    largest = np.finfo("f8").max
    assert summed(np.array([largest, -tiny])) == largest
    assert summed(np.array([largest, largest])) == np.inf
    assert summed(np.array([-largest, -largest, tiny])) == -np.inf
