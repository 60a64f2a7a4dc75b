from functools import partial

import dask.array as da
import numpy as np
import pytest
from fields import gaussian, polynomial_sky
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError
from galprep_dask.sky import (
    compare_sky_models,
    fit_median_sky,
    fit_mesh_sky,
    fit_piecewise_sky,
    fit_polynomial_sky,
    source_mask,
)
from galprep_dask.sky._kernels.held_out import hold_out, merge_square_sums, square_sums

SHAPE = (400, 480)
DEGREES = {f"degree {n}": partial(fit_polynomial_sky, order=n) for n in (0, 1, 2, 3, 5)}


def noisy(sky, seed=0):
    return (sky + np.random.default_rng(seed).normal(0, 1, sky.shape)).astype(np.float32)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_simplest_model_that_follows_the_sky_is_best(order):
    image = noisy(polynomial_sky(SHAPE, order, amplitude=8.0, seed=5))
    compared = compare_sky_models(image, models=DEGREES, n_folds=5)
    assert compared.best == f"degree {order}"
    table = compared.table
    assert list(table["model"]) == list(DEGREES)
    missed = table["structure"][[name < compared.best for name in table["model"]]]
    assert (missed > 0.1).all()
    assert (table["n_squares"] == 13 * 15).all()  # of 32 px; every one is held out once
    assert compared.best in str(compared)
    assert compared.fit is DEGREES[compared.best]


def test_structure_is_the_rms_that_a_model_misses():
    y, x = np.indices(SHAPE)
    wave = np.sin(x / 40) * np.cos(y / 35)
    models = {"constant": lambda data, mask: fit_median_sky(np.zeros(SHAPE))}
    row = compare_sky_models(noisy(wave), models=models, square_size=16, n_folds=5).table[0]
    squares = wave.reshape(25, 16, 30, 16).mean((1, 3))
    assert row["structure"] == pytest.approx(np.sqrt((squares**2).mean()), abs=0.012)  # 1 % of the unit is slope


def test_a_sky_that_eats_galaxies_is_put_aside():
    shape = (512, 512)
    rng = np.random.default_rng(4)
    image = noisy(np.full(shape, 20.0))
    for _ in range(25):
        x, y = rng.uniform(30, 480, 2)
        image += gaussian(shape, x, y, 3e4, 14.0).astype(np.float32)
    # Masks that end too early leave wings for a model to follow.
    masked = source_mask(image, fwhm=3.0, max_grow_size=0, n_sigma=20.0)
    models = {"mesh of 16": partial(fit_mesh_sky, box_size=16, filter_size=1), "constant": fit_median_sky}
    compared = compare_sky_models(image, masked, models, square_size=64)
    eaten = dict(zip(compared.table["model"], compared.table["eaten"], strict=True))
    assert eaten["mesh of 16"] > 1.0
    assert eaten["mesh of 16"] > 3 * eaten["constant"]


def test_the_usual_models_are_tried_and_pieces_follow_what_no_polynomial_does():
    y, x = np.indices((640, 640))
    image = noisy(100 + 2 * np.sin(x / 45) * np.sin(y / 50))
    compared = compare_sky_models(image)
    assert compared.table["model"][0] == "median"
    assert len(compared.table) == 7
    assert compared.best.startswith("pieces")


def test_a_model_that_cannot_be_fitted_says_why():
    image = noisy(np.full((60, 60), 5.0))
    models = {"too free": partial(fit_piecewise_sky, piece_size=4), "median": fit_median_sky}
    compared = compare_sky_models(image, models=models)
    assert compared.best == "median"
    assert "piece_size" in compared.table["note"][0]
    with pytest.raises(NoGoodPixelsError, match="too free"):
        compare_sky_models(image, models={"too free": models["too free"]})


@settings(max_examples=6)
@given(chunks_for((90, 110)))
def test_same_for_every_chunking(chunks):
    image = noisy(polynomial_sky((90, 110), 1, amplitude=5))
    mask = image > 108
    models = {name: DEGREES[name] for name in ("degree 0", "degree 1")}
    expected = compare_sky_models(image, mask, models, square_size=16)
    found = compare_sky_models(da.from_array(image, chunks=chunks), mask, models, square_size=16)
    assert found.best == expected.best
    for column in ("structure", "structure_error", "eaten"):
        np.testing.assert_allclose(found.table[column], expected.table[column], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(found.table["n_squares"], expected.table["n_squares"])


@given(st.integers(1, 9), st.integers(0, 4), st.data())
def test_squares_do_not_know_about_blocks(size, fold, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    image, sky, mask = rng.normal(size=shape), rng.normal(size=shape), rng.random(shape) < 0.2
    image[mask] = np.nan
    parts = []
    edges = [np.cumsum([0, *axis]) for axis in data.draw(chunks_for(shape))]
    for y0, y1 in zip(edges[0][:-1], edges[0][1:], strict=True):
        for x0, x1 in zip(edges[1][:-1], edges[1][1:], strict=True):
            part = np.s_[y0:y1, x0:x1]
            parts.append(square_sums(
                image[part], sky[part], mask[part], origin=(y0, x0), image_shape=shape, size=size, fold=fold
            ))  # fmt: skip
            held = hold_out(mask[part], origin=(y0, x0), size=size, fold=fold)
            np.testing.assert_array_equal(held, hold_out(mask, origin=(0, 0), size=size, fold=fold)[part])
    found = merge_square_sums(parts)
    y, x = np.indices(shape) // size
    good = ~mask & ((2 * y + x) % 5 == fold)
    number = (y * -(-shape[1] // size) + x)[good]
    np.testing.assert_array_equal(found.square, np.unique(number))
    np.testing.assert_array_equal(found.n, np.unique(number, return_counts=True)[1])
    residual = (image - sky)[good]
    expected = [residual[number == one].sum() for one in found.square]
    np.testing.assert_allclose(found.total, expected, rtol=1e-12, atol=1e-12)


def test_errors():
    image = noisy(np.full((60, 60), 5.0))
    for wrong in ({"square_size": 0}, {"square_size": 61}, {"n_folds": 6}, {"max_eaten": -1}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            compare_sky_models(image, models=DEGREES, **wrong)
    with pytest.raises(ParameterError, match="models"):
        compare_sky_models(image, models={})
    with pytest.raises(NoGoodPixelsError):
        compare_sky_models(image, np.ones(image.shape, bool), DEGREES)
    with pytest.raises(ImageShapeError):
        compare_sky_models(image, np.ones((3, 3), bool), DEGREES)
