"""Sums of one block against the same sums written down plainly."""

from functools import partial

import numpy as np
import pytest
from numpy.polynomial.chebyshev import chebvander

from galprep_dask.sky._kernels.chebyshev import Band, change_of_sums, join_bands, on_domain, sums_and_band
from galprep_dask.sky._kernels.sort import sort_rows

ORDER, SHAPE, ORIGIN, IMAGE_SHAPE = 3, (37, 53), (20, 40), (90, 120)
MODEL = np.array([[5.0, 0.1, 0.0, 0.2], [0.3, 0.0, 0.1, 0.0], [0.0, 0.2, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]])


def plain_sums(block, mask, weight, limit):
    y = on_domain(ORIGIN[0], ORIGIN[0] + SHAPE[0], IMAGE_SHAPE[0])
    x = on_domain(ORIGIN[1], ORIGIN[1] + SHAPE[1], IMAGE_SHAPE[1])
    by_y, by_x = chebvander(y, 2 * ORDER), chebvander(x, 2 * ORDER)
    good = np.isfinite(block) & ~mask
    residual = np.where(good, block, 0) - by_y[:, :4] @ MODEL @ by_x[:, :4].T
    if limit is not None:
        good &= weight * residual**2 <= limit**2
    w = np.where(good, weight, 0.0)
    gram, rhs = by_y.T @ w @ by_x, by_y[:, :4].T @ (w * residual) @ by_x[:, :4]
    return np.concatenate([gram.ravel(), rhs.ravel(), [np.sum(w * residual**2), good.sum()]])


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
@pytest.mark.parametrize("limit", [None, 2.0])
@pytest.mark.parametrize("planes", ["", "mask", "weight", "mask weight"])
def test_sums_of_a_block(dtype, limit, planes):
    rng = np.random.default_rng(1)
    # Every other column of a larger array: blocks of a NumPy image are views.
    block = (5 + rng.normal(0, 1, (SHAPE[0], 2 * SHAPE[1]))).astype(dtype)[:, ::2]
    if dtype != "i2":
        block[3, 4], block[5, 6] = np.nan, -np.inf
    mask = rng.uniform(size=SHAPE) < 0.2
    block[mask] = 30000
    weight = rng.uniform(0.5, 2, SHAPE)
    block.flags.writeable = mask.flags.writeable = weight.flags.writeable = False
    given = {"mask": mask, "weight": weight}
    domain = {"image_shape": IMAGE_SHAPE, "order": ORDER, "model": MODEL}
    look = partial(
        sums_and_band, block, *[given[name] for name in planes.split()], origin=ORIGIN, edges=(1.0, 2.5), corner=(7, 9),
        has_mask="mask" in planes, has_weight="weight" in planes, **domain,
    )  # fmt: skip
    found, band = look(limit=limit, room=10**6)
    expected = plain_sums(
        block,
        mask if "mask" in planes else np.zeros(SHAPE, bool),
        weight if "weight" in planes else np.ones(SHAPE),
        limit,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    assert found[-1] == expected[-1]

    # From the pixels near one limit follow the sums of another, and of one about another sky.
    assert band.n_lost == 0
    assert band.largest_weight == 1 if "weight" not in planes else 1.9 < band.largest_weight < 2
    np.testing.assert_array_equal(block[band.y - ORIGIN[0] - 7, band.x - ORIGIN[1] - 9], band.values)
    parts = [Band(*(array[part] for array in band[:5]), *band[5:]) for part in (slice(40), slice(40, None))]
    band = join_bands(parts)
    here = band._replace(y=band.y - 7, x=band.x - 9)
    for other in (1.2, 2.4):
        if limit is not None:
            more = change_of_sums(here, shifted=MODEL, limit=other, **domain)
            np.testing.assert_allclose(found + more, look(limit=other, room=0)[0], rtol=1e-11, atol=1e-9)
            assert (found + more)[-1] == look(limit=other, room=0)[0][-1]
    few = look(limit=limit, room=5)[1]
    assert len(few.values) + few.n_lost == len(band.values) > 5


@pytest.mark.parametrize("n", [1, 511, 512, 3000])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_are_sorted_as_numpy_sorts_them(n, dtype):
    rng = np.random.default_rng(n)
    bits = rng.integers(0, 2**32, n, dtype="u4").view("f4")  # every exponent there is
    rows = np.stack([
        rng.normal(100, 3, n), rng.normal(0, 1, n), np.round(rng.normal(0, 2, n)), np.full(n, -7.5),
        rng.normal(0, 1e-44, n).astype("f4"), np.where(np.isfinite(bits), bits, 1), -rng.uniform(2.0, 2.001, n),
    ]).astype(dtype)  # fmt: skip
    n_good = rng.integers(0, n + 1, len(rows))
    n_good[:2] = n, 0
    for row, end in zip(rows, n_good, strict=True):
        row[end:] = np.inf
    wanted = np.sort(rows, axis=1)
    sort_rows(rows, n_good)
    np.testing.assert_array_equal(rows, wanted)
