"""Sums of many values at a time are those of the values one by one."""

from fractions import Fraction

import numpy as np
import pytest

from galprep_dask._kernels.exact_sums import OFFSET
from galprep_dask.stats._kernels.exact import add_strip, no_sums


def whole(pieces):
    return sum(int(piece) << (32 * k) for k, piece in enumerate(pieces))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_what_is_taken_is_summed_to_the_last_bit(dtype, sign):
    """Small negative values beside large ones had lost their last bits."""
    rng = np.random.default_rng(0)
    exponents = np.concatenate([rng.integers(-40, 1, 1000), rng.integers(-120, -40, 1000)])
    values = (sign * rng.uniform(0.5, 1, 2000) * 2.0**exponents).astype(dtype).astype("f8")
    values[:4] = 0.0, sign * 1.0, sign * 2.0**-60, sign * 2.0**-61
    taken, (sums, squares) = np.zeros(2000, np.uint8), no_sums(1)
    n = add_strip(values, -np.inf, np.inf, 0, dtype == "f4", taken, sums[0], squares[0])
    chosen = [Fraction(value) for value in values[taken == 1].tolist()]
    assert n == len(chosen) > 150
    assert taken[:2].all()
    assert Fraction(whole(sums[0]), 2**OFFSET) == sum(chosen)
    assert Fraction(whole(squares[0]), 2 ** (2 * OFFSET)) == sum(value**2 for value in chosen)
