"""A header says which sky was subtracted, and keeps what the observatory wrote."""

import numpy as np
import pytest
from astropy.io import fits

from galprep_dask.sky import fit_median_sky, fit_mesh_sky, fit_piecewise_sky, fit_polynomial_sky, record_sky

IMAGE = np.random.default_rng(0).normal(10, 1, (80, 90))
MODELS = {
    "median": lambda: fit_median_sky(IMAGE),
    "polynomial": lambda: fit_polynomial_sky(IMAGE, order=2),
    "piecewise": lambda: fit_piecewise_sky(IMAGE, piece_size=40),
    "mesh": lambda: fit_mesh_sky(IMAGE, box_size=20),
}


@pytest.mark.parametrize("first", MODELS)
@pytest.mark.parametrize("second", MODELS)
def test_nothing_of_the_first_sky_is_left_but_a_line_of_history(first, second):
    original = fits.Header({"SKYLEVEL": 8968.6, "SKYVAL": 85.9, "SKYSIG": 0.5, "OBJECT": "field"})
    before = original.tostring()
    once = record_sky(original, MODELS[first]())
    twice = record_sky(once, MODELS[second]())
    assert original.tostring() == before
    fresh = record_sky(original, MODELS[second]())
    assert [str(card) for card in twice.cards if card.keyword != "HISTORY"] == [str(card) for card in fresh.cards]
    if first == second:
        assert "HISTORY" not in twice
        return
    assert list(twice["HISTORY"]) == [f"sky subtracted before: {first}, rms {once['SKYRMS']:.6g}"]
    assert (twice["SKYLEVEL"], twice["SKYVAL"], twice["SKYSIG"]) == (8968.6, 85.9, 0.5)
    assert "HISTORY" not in fresh


@pytest.mark.parametrize("name", MODELS)
def test_the_same_sky_is_recorded_once(name):
    once = record_sky(fits.Header(), MODELS[name]())
    assert record_sky(once, MODELS[name]()).tostring() == once.tostring()
