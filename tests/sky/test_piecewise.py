"""Polynomial pieces with smooth joins: least squares exactly, whatever the chunks."""

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from strategies import chunkings, chunks_for

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError
from galprep_dask.sky import fit_piecewise_sky

SHAPE = (130, 170)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
WAVES = 3 * np.sin(X / 25) * np.cos(Y / 20)


def field(level=0.0, seed=0):
    return level + WAVES + np.random.default_rng(seed).normal(size=SHAPE)


def splines(edges, order, length):
    """B-splines of one axis at all its pixels, written out."""
    borders = np.asarray(edges) - 0.5
    knots = np.r_[[borders[0]] * order, borders, [borders[-1]] * order]
    return BSpline.design_matrix(np.arange(length, dtype=float), knots, order).toarray()


def second_differences(edges, order):
    """Of the coefficients, by their places: the means of the knots that each spline depends on."""
    borders = np.asarray(edges) - 0.5
    knots = np.r_[[borders[0]] * order, borders, [borders[-1]] * order]
    places = np.array([knots[n + 1 : n + order + 1].mean() for n in range(len(knots) - order - 1)])
    steps = np.diff(places) / np.diff(places).mean()
    return np.diff(np.diff(np.eye(len(places)), axis=0) / steps[:, None], axis=0)


def dense(image, good, sky, weight=None):
    """Least squares with the whole design matrix, and the same slight stiffness."""
    by, bx = (splines(e, sky.order, n) for e, n in zip((sky.edges_y, sky.edges_x), SHAPE, strict=True))
    design = (by[:, None, :, None] * bx[None, :, None, :]).reshape(*SHAPE, -1)[good]
    weight = np.ones(len(design)) if weight is None else weight[good]
    second = [second_differences(edges, sky.order) for edges in (sky.edges_y, sky.edges_x)]
    square = [matrix.T @ matrix for matrix in second]
    stiff = np.kron(square[0], np.eye(bx.shape[1])) + np.kron(np.eye(by.shape[1]), square[1])
    normal = design.T @ (weight[:, None] * design) + 1e-3 * weight.mean() * stiff
    coefficients = np.linalg.solve(normal, design.T @ (weight * image[good]))
    return by @ coefficients.reshape(by.shape[1], bx.shape[1]) @ bx.T


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_a_dense_solution(order, weighted):
    image = field()
    mask = np.random.default_rng(1).random(SHAPE) < 0.2
    mask[:40, :60] = True
    weight = np.random.default_rng(2).uniform(0.5, 2, SHAPE) if weighted else None
    sky = fit_piecewise_sky(image, mask, piece_size=(40, 50), order=order, weight=weight, sigma_clip=None)
    expected = dense(image, ~mask, sky, weight)
    got = sky.evaluate().compute()
    np.testing.assert_allclose(got[~mask], expected[~mask], atol=1e-10)
    left = (image - expected)[~mask]
    assert sky.rms == pytest.approx(np.sqrt(np.average(left**2, weights=None if weight is None else weight[~mask])))
    assert sky.n_pixels == (~mask).sum()


def test_a_high_sky_costs_no_digits():
    low = fit_piecewise_sky(field(), piece_size=40)
    high = fit_piecewise_sky(field(level=3e7), piece_size=40)
    assert high.n_pixels == low.n_pixels
    assert high.rms == pytest.approx(low.rms, abs=1e-6)
    np.testing.assert_allclose(high.evaluate().compute() - 3e7, low.evaluate().compute(), atol=1e-6)


@settings(max_examples=15)
@given(chunks=st.tuples(*(chunkings(n) for n in SHAPE)))
def test_chunks_change_rounding_only(chunks):
    image, mask = field(), WAVES > 2.5
    whole = fit_piecewise_sky(image, mask, piece_size=45)
    cut = fit_piecewise_sky(da.from_array(image, chunks=chunks), mask, piece_size=45)
    assert cut.n_pixels == whole.n_pixels
    np.testing.assert_allclose(cut.coefficients, whole.coefficients, atol=1e-9)
    np.testing.assert_allclose(whole.evaluate(chunks=chunks).compute(), whole.evaluate().compute(), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1e30, np.nan, -np.inf])
def test_what_lies_under_the_mask_does_not_matter(value):
    image, mask = field(), np.zeros(SHAPE, bool)
    mask[30:60, 20:50] = True
    reference = fit_piecewise_sky(image, mask, piece_size=45)
    image[mask] = value
    image.flags.writeable = False
    np.testing.assert_array_equal(fit_piecewise_sky(image, mask, piece_size=45).coefficients, reference.coefficients)


def test_recovers_a_sky_that_no_cubic_follows():
    sky = fit_piecewise_sky(field(), piece_size=20)
    error = sky.evaluate().compute() - WAVES
    # Coefficients from 22100 pixels of noise 1.
    expected = np.sqrt(sky.coefficients.size / field().size)
    assert np.std(error) < 1.3 * expected
    assert sky.rms == pytest.approx(1.0, abs=0.03)


def test_joins_are_smooth():
    """The second differences do not jump where pieces meet: no more than elsewhere."""
    sky = fit_piecewise_sky(field(), piece_size=40)
    curvature = np.diff(sky.evaluate().compute(), 2, axis=1)
    steps = np.abs(np.diff(curvature, axis=1)).max(axis=0)
    borders = sky.edges_x[1:-1]
    assert steps[borders - 2].max() <= 1.5 * np.delete(steps, borders - 2).max()


def test_pieces_without_pixels_continue_their_neighbours():
    image, mask = 7 + 0.1 * X, np.zeros(SHAPE, bool)
    mask[:, 80:] = True
    sky = fit_piecewise_sky(image, mask, piece_size=40, sigma_clip=None).evaluate().compute()
    np.testing.assert_allclose(sky, image, atol=1e-5)


def test_outliers_are_clipped():
    image = field()
    image[::13, ::17] += 500.0
    clean, clipped = fit_piecewise_sky(field(), piece_size=40), fit_piecewise_sky(image, piece_size=40)
    assert np.abs(clean.evaluate() - clipped.evaluate()).max().compute() < 0.2


@given(chunks_for((33, 41)), st.integers(1, 4))
def test_evaluate_is_the_same_to_the_bit_for_every_chunking(chunks, order):
    sky = fit_piecewise_sky(field()[:33, :41], piece_size=(16, 10), order=order)
    found = sky.evaluate(chunks=chunks)
    assert found.chunks == chunks
    np.testing.assert_array_equal(found.compute(scheduler="sync"), sky.evaluate(chunks=-1).compute(scheduler="sync"))


def test_evaluate_is_the_sum_of_the_splines():
    sky = fit_piecewise_sky(field(), piece_size=(65, 40), order=2)
    y, x = (splines(edges, 2, n) for n, edges in zip(SHAPE, (sky.edges_y, sky.edges_x), strict=True))
    np.testing.assert_allclose(sky.evaluate(), y @ sky.coefficients @ x.T, rtol=1e-12, atol=1e-13)


def test_evaluate_is_lazy_and_small(no_compute):
    sky = fit_piecewise_sky(field(), piece_size=40)
    with no_compute():
        lazy = sky.evaluate(chunks=20)
        assert len(lazy.dask) <= 3 * lazy.npartitions
    with pytest.raises(ParameterError, match="goes beyond"):
        sky.evaluate((131, 170))
    assert sky.evaluate((20, 30)).shape == (20, 30)


def test_header_says_what_the_model_is():
    header = fits.Header.fromstring(fit_piecewise_sky(field(), piece_size=(65, 40), order=2).to_header().tostring())
    assert (header["SKYMODEL"], header["SKYORDER"], header["SKYPCSY"], header["SKYPCSX"]) == ("piecewise", 2, 2, 4)


def test_bad_input():
    with pytest.raises(NoGoodPixelsError, match="every pixel"):
        fit_piecewise_sky(np.full(SHAPE, np.nan))
    with pytest.raises(ImageShapeError, match="mask has shape"):
        fit_piecewise_sky(field(), np.zeros((3, 3), bool))
    wrong = [("order", 0), ("order", 1.5), ("piece_size", 5), ("piece_size", 20.5), ("sigma_clip", 0), ("maxiters", -1)]
    for name, value in wrong:
        with pytest.raises(ParameterError, match=name):
            fit_piecewise_sky(field(), **{name: value})
    with pytest.raises(ParameterError, match="too short"):
        fit_piecewise_sky(np.ones((3, 100)), piece_size=50)
