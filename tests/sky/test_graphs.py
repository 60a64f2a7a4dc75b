"""Tasks per chunk of everything that fits a sky or masks sources, at 64 and 1024 chunks, ragged ones too."""

from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest

from galprep_dask.sky import (
    compare_sky_models,
    fit_median_sky,
    fit_mesh_sky,
    fit_piecewise_sky,
    fit_polynomial_sky,
    fit_sky_between_sources,
    source_mask,
)

SEARCH = {"fwhm": 2.5, "max_grow_size": 3}
TWO_MODELS = {"median": fit_median_sky, "polynomial": fit_polynomial_sky}


def pixels(shape):
    """Noise about a slope, with a source every 16 pixels."""
    y, x = np.indices(shape)
    noise = np.random.default_rng(0).normal(10, 1, shape)
    return (noise + x / 50 + 50 * ((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2 < 3)).astype("f4")


def tasks_per_chunk(stage, n_chunks, size):
    shape = (n_chunks * size,) * 2
    image = da.from_array(pixels(shape), chunks=size, name=False).map_blocks(np.positive, dtype="f4")
    known = image > 40
    counted = []

    def count_and_run(graph, keys, **kwargs):
        graph = dict(graph.__dask_graph__())
        counted.append(len(graph) / n_chunks**2)
        return dask.get(graph, keys, **kwargs)

    with dask.config.set(scheduler=count_and_run):
        stage(image, known)
    return counted


STAGES = {
    "polynomial": fit_polynomial_sky,
    "pieces": partial(fit_piecewise_sky, piece_size=64),
    "mesh": partial(fit_mesh_sky, box_size=10),
    "mask": lambda image, known: source_mask(image, known=known, faint_scales=(1, 4, 8), **SEARCH),
}


@pytest.mark.parametrize("stage", STAGES)
def test_tasks_per_chunk_are_few_and_do_not_grow(stage):
    more = 16 if stage == "mask" else 32  # a mask is fifteen graphs
    few, ragged, many = (tasks_per_chunk(STAGES[stage], n, size) for n, size in ((8, 8), (8, 11), (more, 8)))
    assert max(*few, *ragged, *many) <= 8
    assert max(many) <= max(few) + 0.25
    assert max(ragged) <= max(few) + 1  # a block that cuts a square takes no task more, a grown mask one


@pytest.mark.parametrize("size", [16, 19])
def test_sky_between_sources_takes_few_tasks_and_passes(size):
    fit = partial(fit_polynomial_sky, order=1)
    counted = tasks_per_chunk(lambda image, known: fit_sky_between_sources(image, fit=fit, rounds=2, **SEARCH), 8, size)
    assert max(counted) <= 8
    assert sum(tasks > 1 for tasks in counted) <= 45  # graphs on squares have a sixteenth of the tasks


def test_comparing_models_takes_few_tasks():
    counted = tasks_per_chunk(partial(compare_sky_models, models=TWO_MODELS, square_size=32), 8, 19)
    assert max(counted) <= 8


@pytest.mark.parametrize("fit", [fit_polynomial_sky, partial(fit_piecewise_sky, piece_size=128)])
def test_fits_with_clipping_read_the_image_two_or_three_times(fit):
    reads = []

    def read(block):
        reads.append(1)
        return block

    noise = np.random.default_rng(0).normal(5, 1, (256, 256))
    image = da.from_array(noise, chunks=256, name=False).map_blocks(read, dtype="f8", meta=np.empty((0, 0)))
    clipped = fit(image)
    assert len(reads) == 2
    assert clipped.n_pixels < noise.size
    reads.clear()
    fit(image + 1e4)  # sums of such pixels have no digits left for their scatter
    assert len(reads) == 3
