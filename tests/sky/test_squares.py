"""Means over squares of pixels, and marks on squares, for every chunking against the same written down plainly."""

import dask.array as da
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunks_for

from galprep_dask.sky.squares import Grid, coarser_squares, mark_pixels, squares_of


def plainly(image, bad, known, side):
    """Means of the good pixels of each square, the number of its pixels, good ones, and known ones."""
    shape = [range(0, n, side) for n in image.shape]
    found = np.empty((4, *map(len, shape)))
    for i, y in enumerate(shape[0]):
        for j, x in enumerate(shape[1]):
            square = np.s_[y : y + side, x : x + side]
            good = np.isfinite(image[square]) & ~bad[square]
            values = image[square][good].astype("f8")
            total = np.cumsum(values)[-1:]  # one after another, which neither sum of Python nor that of NumPy is
            mean = total[0] / len(values) if len(values) else np.nan
            found[:, i, j] = mean, good.size, good.sum(), known[square].sum()
    return found


@st.composite
def observed(draw):
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = rng.normal(0, 1, shape).astype(draw(st.sampled_from(["f4", "f8"])))
    image[rng.uniform(size=shape) < 0.1] = np.nan
    image.flags.writeable = False
    return image, rng.uniform(size=shape) < 0.3, rng.uniform(size=shape) < 0.5, draw(chunks_for(shape))


@settings(max_examples=25)
@given(observed(), st.sampled_from([(2, 4), (3, 6), (4, 8), (5, 10)]))
def test_squares_are_the_same_for_every_chunking(scene, sides):
    image, bad, known, chunks = scene
    lazy, lazy_bad, lazy_known = (da.from_array(plane, chunks=chunks, name=False) for plane in (image, bad, known))
    grid = Grid(lazy.chunks, list(sides))
    squares = squares_of(grid, sides[0], lazy, lazy_bad, lazy_known)
    mean, n, n_good, n_known = plainly(image, bad, known, sides[0])
    expected = np.where(2 * n_good >= n, mean, np.nan).astype(image.dtype)
    np.testing.assert_array_equal(squares.means, expected)
    assert squares.means.dtype == image.dtype
    np.testing.assert_array_equal(squares.mostly_known, 2 * n_known > n)

    # Marked squares in pixels, and left out of larger ones.
    marks = (np.arange(expected.size).reshape(expected.shape) % 3).astype("u1")
    lazy_marks = da.from_array(marks, chunks=squares.means.chunks, name=False)
    for bit in (1, 2):
        in_pixels = np.repeat(np.repeat(marks & bit, sides[0], 0), sides[0], 1)[: image.shape[0], : image.shape[1]] > 0
        np.testing.assert_array_equal(mark_pixels(grid, {sides[0]: lazy_marks}, bit), in_pixels)
        marked = mark_pixels(grid, {sides[0]: lazy_marks}, bit, lazy_bad)
        assert marked.chunks == chunks
        np.testing.assert_array_equal(marked, in_pixels | bad)
        larger = coarser_squares(squares, lazy_marks, bit, sides[1])
        mean, n, n_good, n_known = plainly(image, bad | in_pixels, known, sides[1])
        expected = np.where(2 * n_good >= n, mean, np.nan)
        np.testing.assert_allclose(larger.means, expected, rtol=0, atol=3e-7 if image.dtype == np.float32 else 1e-15)
        np.testing.assert_array_equal(larger.mostly_known, 2 * n_known > n)
