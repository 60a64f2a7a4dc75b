import pickle
import warnings

import dask
import dask.array as da
import numpy as np
import photutils
import pytest
import xarray as xr
from astropy.stats import SigmaClip
from concurrency import run_together
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.background import Background2D, MeanBackground, MedianBackground, MMMBackground, SExtractorBackground
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError
from galprep_dask.masks import grow_mask
from galprep_dask.segmentation import detect_sources, smooth
from galprep_dask.sky import fit_mesh_sky
from galprep_dask.sky.mesh import _box_statistics

PHOTUTILS_ESTIMATORS = {
    "sextractor": SExtractorBackground, "median": MedianBackground, "mean": MeanBackground, "mode": MMMBackground,
}  # fmt: skip


def field(shape=(150, 200), dtype="f8", seed=0, level=100.0):
    """A sky that no low polynomial follows, noise, sources in some boxes, and their mask."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = level + 0.05 * x + 3 * np.sin(y / 20) + rng.normal(0, 2, shape)
    image[10:20, 30:45] += 300
    image[60:64, 70:75] += 30
    mask = rng.uniform(size=shape) < 0.02
    mask[80:110, 100:150] = True  # some boxes have no good pixel
    image = image.astype(dtype)
    if np.dtype(dtype).kind == "f":
        image[7, 9], image[8, 9] = np.nan, np.inf
    image.flags.writeable = mask.flags.writeable = False
    return image, mask


def background(image, box_size, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Background2D(image, box_size, **kwargs)


def assert_same_sky(sky, other):
    for name in ("mesh", "rms_mesh", "n_pixels_mesh"):
        np.testing.assert_array_equal(getattr(sky, name), getattr(other, name))
    assert sky.rms == other.rms


# As photutils --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize(
    ("shape", "box_size", "filter_size"),
    [
        ((150, 200), 50, 3),
        ((150, 200), (25, 50), (3, 5)),
        ((157, 219), 50, 3),  # boxes cut short by the end of the image, that do not count
        ((148, 198), 50, 1),  # and that do
        ((150, 200), (150, 50), 3),
        ((150, 200), (50, 200), 1),
        ((150, 200), (150, 200), 3),
        ((150, 200), 7, 5),
    ],
)
def test_equals_background2d(shape, box_size, filter_size, dtype):
    image, mask = field(shape, dtype)
    # Not 10: photutils 3.0 leaves out the box that lacks exactly so many.
    peer = background(image, box_size, mask=mask, filter_size=filter_size, exclude_percentile=10.01)
    lazy = da.from_array(image, chunks=(60, 45), name=False)
    sky = fit_mesh_sky(lazy, mask, box_size=box_size, filter_size=filter_size, exclude_percentile=10.01)
    np.testing.assert_array_equal(sky.n_pixels_mesh, peer.n_pixels_mesh)
    # photutils 3.0 sums float32 pixels in float32.
    level, scatter = (1e-11, 1e-11) if dtype == "f8" else (1e-4, 2e-5)
    np.testing.assert_allclose(sky.mesh, peer.background_mesh, rtol=0, atol=level)
    np.testing.assert_allclose(sky.rms_mesh, peer.background_rms_mesh, rtol=0, atol=scatter)
    np.testing.assert_allclose(sky.evaluate(), peer.background, rtol=0, atol=level)
    np.testing.assert_allclose(sky.rms_image(), peer.background_rms, rtol=0, atol=2 * scatter)
    assert sky.rms == pytest.approx(peer.background_rms_median, abs=scatter)


@pytest.mark.parametrize("estimator", PHOTUTILS_ESTIMATORS)
@pytest.mark.parametrize(("sigma", "maxiters"), [(3.0, 10), (2.0, 1), (2.5, None), (None, 5)])
def test_estimators_and_clipping_are_those_of_photutils(estimator, sigma, maxiters):
    image, mask = field(seed=3)
    # Sources are not masked: in some boxes "sextractor" takes the median.
    clip = None if sigma is None else SigmaClip(sigma, maxiters=maxiters)
    peer = background(
        image, 25, mask=mask, sigma_clip=clip, bkg_estimator=PHOTUTILS_ESTIMATORS[estimator](sigma_clip=None),
        exclude_percentile=60.01,
    )  # fmt: skip
    sky = fit_mesh_sky(
        image, mask, box_size=25, sigma_clip=sigma, maxiters=maxiters, estimator=estimator, exclude_percentile=60.01
    )
    np.testing.assert_array_equal(sky.n_pixels_mesh, peer.n_pixels_mesh)
    np.testing.assert_allclose(sky.mesh, peer.background_mesh, rtol=1e-12)
    np.testing.assert_allclose(sky.rms_mesh, peer.background_rms_mesh, rtol=1e-11)


def test_a_box_that_lacks_exactly_the_percentage_counts():
    image, _ = field((40, 40))
    image = np.nan_to_num(image, nan=100, posinf=100)
    mask = np.zeros(image.shape, bool)
    mask[:2, :20] = True  # 10 % of the first box
    mask[:3, 20:] = True  # 15 % of the second
    parameters = {"box_size": 20, "filter_size": 1, "sigma_clip": None}
    sky = fit_mesh_sky(image, mask, **parameters, exclude_percentile=10)
    assert sky.mesh[0, 0] == fit_mesh_sky(image, mask, **parameters, exclude_percentile=100).mesh[0, 0]
    assert sky.mesh[0, 1] != fit_mesh_sky(image, mask, **parameters, exclude_percentile=100).mesh[0, 1]
    whole = fit_mesh_sky(image, **parameters, exclude_percentile=0)
    assert whole.mesh.shape == (2, 2)
    if photutils.__version__ >= "3.1":
        peer = background(image, 20, mask=mask, filter_size=1, sigma_clip=None, exclude_percentile=10)
        np.testing.assert_allclose(sky.mesh, peer.background_mesh, rtol=1e-12)


# Chunks, masks, kinds ------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.tuples(*[st.integers(1, 45)] * 2).flatmap(lambda shape: st.tuples(st.just(shape), chunks_for(shape))),
    st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from(["f4", "f8", "i2"]),
)  # fmt: skip
def test_mesh_is_the_same_to_the_bit_for_every_chunking(shape_and_chunks, box_y, box_x, seed, dtype):
    shape, chunks = shape_and_chunks
    rng = np.random.default_rng(seed)
    image = rng.normal(50, 5, shape).astype(dtype)
    mask = rng.uniform(size=shape) < 0.2
    mask[0, 0] = False
    box_size = (min(box_y, shape[0]), min(box_x, shape[1]))
    parameters = {"box_size": box_size, "sigma_clip": 2.0, "exclude_percentile": 100}
    whole = fit_mesh_sky(image, mask, **parameters)
    parts = fit_mesh_sky(da.from_array(image, chunks=chunks, name=False), mask, **parameters)
    assert_same_sky(parts, whole)
    assert 0 < whole.n_pixels_mesh[0, 0] <= np.count_nonzero(~mask[: box_size[0], : box_size[1]])


@settings(max_examples=30)
@given(chunks_for((83, 61)), st.sampled_from([(7, 7), (20, 9), (83, 61), (1, 61)]))
def test_evaluate_is_the_same_to_the_bit_for_every_chunking(chunks, box_size):
    image, mask = field((150, 160))
    sky = fit_mesh_sky(image[:83, :61], mask[:83, :61], box_size=box_size, exclude_percentile=90)
    found = sky.evaluate(chunks=chunks)
    assert found.chunks == chunks
    np.testing.assert_array_equal(found, sky.evaluate(chunks=-1))
    np.testing.assert_array_equal(sky.rms_image(chunks=chunks), sky.rms_image(chunks=-1))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_values_under_the_mask_do_not_count(dtype):
    image, mask = field(dtype=dtype)
    expected = fit_mesh_sky(image, mask, box_size=30)
    for hidden in (0.0, 1e30, -1e30, np.nan, -np.inf):
        pixels = da.from_array(np.where(mask, np.asarray(hidden, dtype), image), chunks=(64, 47), name=False)
        assert_same_sky(fit_mesh_sky(pixels, mask, box_size=30), expected)
    holes = np.where(mask, np.asarray(np.nan, dtype), image)
    assert_same_sky(fit_mesh_sky(holes, box_size=30), expected)


def test_boxes_of_nan_are_filled_from_their_neighbours():
    image = np.random.default_rng(0).normal(20, 1, (120, 120))
    image[40:80, 40:80] = np.nan
    sky = fit_mesh_sky(da.from_array(image, chunks=50, name=False), box_size=20, filter_size=1)
    assert sky.n_pixels_mesh[2:4, 2:4].max() == 0
    assert np.isfinite(sky.mesh).all()
    # The mean of ten boxes, each good to 2.14 / 20 for this estimator.
    np.testing.assert_allclose(sky.mesh[2:4, 2:4], 20, atol=4 * 2.14 / 20)
    assert np.isfinite(sky.evaluate().compute()).all()


def test_every_kind_and_dtype_of_image():
    image = np.round(field()[0][20:120, 20:140] * 10)
    image.flags.writeable = False
    expected = fit_mesh_sky(image, box_size=40)
    for pixels in (
        image.astype(">i4"),
        image.astype(">f4"),
        image[::-1, ::-1][::-1, ::-1],
        da.from_array(image, chunks=-1),
        xr.DataArray(image, dims=("y", "x")),
    ):
        assert_same_sky(fit_mesh_sky(pixels, box_size=40), expected)


def test_a_transposed_image_has_a_transposed_sky():
    image = np.nan_to_num(field()[0], nan=100, posinf=100)
    sky = fit_mesh_sky(image, box_size=(25, 40), filter_size=(3, 5), exclude_percentile=30)
    turned = fit_mesh_sky(image.T, box_size=(40, 25), filter_size=(5, 3), exclude_percentile=30)
    np.testing.assert_array_equal(turned.n_pixels_mesh.T, sky.n_pixels_mesh)
    np.testing.assert_array_equal(turned.mesh.T, sky.mesh)
    np.testing.assert_array_equal(turned.rms_mesh.T, sky.rms_mesh)
    np.testing.assert_allclose(turned.evaluate().T, sky.evaluate(), rtol=1e-13)


def test_a_change_of_unit_changes_nothing_else():
    image, mask = field()
    sky, faint = (fit_mesh_sky(image * unit, mask, box_size=25) for unit in (1.0, 2.0**-60))
    np.testing.assert_array_equal(faint.mesh * 2.0**60, sky.mesh)
    np.testing.assert_array_equal(faint.rms_mesh * 2.0**60, sky.rms_mesh)


def test_a_high_level_does_not_take_the_digits_of_the_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (100, 100))
    low, high = (fit_mesh_sky(level + noise, box_size=50) for level in (0.0, 3e7))
    np.testing.assert_allclose(high.mesh - 3e7, low.mesh, rtol=0, atol=1e-7)
    np.testing.assert_allclose(high.rms_mesh, low.rms_mesh, rtol=1e-7)


def test_a_flat_image_has_its_level_everywhere():
    sky = fit_mesh_sky(np.full((50, 70), 0.1, "f4"), box_size=20, exclude_percentile=50)
    assert (sky.evaluate().compute() == np.float64(np.float32(0.1))).all()
    assert sky.rms == 0


# Truth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimator", "factor"), [("mean", 1.0), ("median", np.sqrt(np.pi / 2)), ("sextractor", 2.14)])
def test_a_gradient_is_recovered_within_the_error_of_a_box(estimator, factor):
    # cov(median, mean) = sigma^2 / n, so var(2.5 median - 1.5 mean) = (6.25 pi / 2 + 2.25 - 7.5) sigma^2 / n.
    shape, box, sigma = (800, 1000), 40, 2.0
    y, x = np.indices(shape)
    truth = 100 + 0.002 * x - 0.001 * y
    image = truth + np.random.default_rng(8).normal(0, sigma, shape)
    sky = fit_mesh_sky(
        da.from_array(image, chunks=(333, 290), name=False), box_size=box, filter_size=1, sigma_clip=5.0,
        estimator=estimator,
    )  # fmt: skip
    centres = truth.reshape(20, box, 25, box).mean(axis=(1, 3))
    pulls = (sky.mesh - centres) / (factor * sigma / box)
    assert np.abs(pulls.mean()) < 4 / np.sqrt(500)
    assert pulls.std() == pytest.approx(1, abs=4 / np.sqrt(1000) + 0.02)
    assert sky.rms == pytest.approx(sigma, abs=4 * sigma / np.sqrt(2 * image.size) + 0.002)
    np.testing.assert_allclose(sky.rms_mesh, sigma, atol=5 * sigma / np.sqrt(2 * box**2))


def test_the_spline_follows_a_plane_away_from_the_edge():
    y, x = np.indices((400, 480))
    plane = 3.0 + 0.1 * x - 0.2 * y
    sky = fit_mesh_sky(plane, box_size=20, filter_size=1, sigma_clip=None)
    # What the edge does falls off by 2 - sqrt(3) a box.
    inner = (slice(160, 240), slice(160, 320))
    np.testing.assert_allclose(sky.evaluate().compute()[inner], plane[inner], atol=4 * (2 - np.sqrt(3)) ** 8)


def test_past_the_boxes_the_level_goes_on():
    image, mask = field()
    sky = fit_mesh_sky(image, mask, box_size=25)
    inside = sky.evaluate().compute()
    larger = sky.evaluate((180, 230), chunks=64).compute()
    np.testing.assert_array_equal(larger[:150, :200], inside)
    assert np.ptp(larger[150:, 60]) == 0
    assert larger[160, 60] == pytest.approx(inside[149, 60], abs=0.01)
    assert np.ptp(larger[30, 200:]) == 0


def test_threads_that_start_together_give_the_same():
    image, mask = field()
    lazy = da.from_array(image, chunks=(40, 37), name=False)
    for found in run_together(lambda: fit_mesh_sky(lazy, mask, box_size=25)):
        assert_same_sky(found, fit_mesh_sky(image, mask, box_size=25))


# Graphs, headers, errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("box_size", [(50, 50), (48, 70), (333, 333)])
@pytest.mark.parametrize("masked", [False, True])
def test_fit_is_lazy_and_has_few_tasks_a_chunk(box_size, masked, no_compute):
    tasks = []
    for blocks in (8, 32):
        with no_compute():
            data = da.zeros((blocks * 100, blocks * 100), chunks=100)
            mask = da.zeros(data.shape, chunks=100, dtype=bool) if masked else None
            boxes = _box_statistics(data, mask, box_size, sigma=3.0, maxiters=10)
        tasks.append(len(dict(boxes.__dask_graph__())) / blocks**2)
        assert len(pickle.dumps(boxes.dask)) < 20_000 + 2500 * blocks**2
    assert max(tasks) <= 3 + masked
    assert tasks[0] == pytest.approx(tasks[1], rel=0.05)


@pytest.mark.parametrize("blocks", [8, 32])
def test_evaluate_is_lazy_small_and_two_tasks_a_chunk(blocks, no_compute):
    image, mask = field()
    sky = fit_mesh_sky(image, mask, box_size=25)
    with no_compute():
        evaluated = sky.evaluate((blocks * 100, blocks * 100), chunks=100)
        sky.rms_image((blocks * 100, blocks * 100), chunks=100)
    assert evaluated.npartitions == blocks**2
    assert evaluated.dtype == np.float64
    assert len(dict(evaluated.__dask_graph__())) <= 2 * blocks**2
    assert len(pickle.dumps(evaluated.dask)) < 20_000 + 400 * blocks**2


def test_header_says_how_but_not_what():
    image, mask = field()
    sky = fit_mesh_sky(image, mask, box_size=(25, 50), filter_size=(3, 1), estimator="median")
    header = sky.to_header()
    assert header["SKYMODEL"] == "mesh"
    assert (header["SKYBOXY"], header["SKYBOXX"]) == (25, 50)
    assert (header["SKYFILTY"], header["SKYFILTX"]) == (3, 1)
    assert header["SKYESTIM"] == "median"
    assert header["SKYRMS"] == sky.rms
    assert header["SKYLEV"] == np.median(sky.mesh)
    assert len(header) < 12


def test_errors():
    image, mask = field((40, 60))
    for box_size in (0, -3, 2.5, (10, 0), (1, 2, 3), "8", None):
        with pytest.raises(ParameterError, match="box_size"):
            fit_mesh_sky(image, box_size=box_size)
    for box_size in (41, (20, 61)):
        with pytest.raises(ParameterError, match="larger than the image"):
            fit_mesh_sky(image, box_size=box_size)
    wrong = {
        "filter_size": [0, 2, (3, 4), 1.5], "sigma_clip": [0, -1.0, np.nan], "maxiters": [-1],
        "estimator": ["mad", None], "exclude_percentile": [-1, 101, np.nan],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(ParameterError, match=name):
                fit_mesh_sky(image, box_size=10, **{name: value})
    with pytest.raises(NoGoodPixelsError, match="no box of 10 x 10 pixels has 90 good ones, the best has 0"):
        fit_mesh_sky(image, np.ones(image.shape, bool), box_size=10)
    with pytest.raises(NoGoodPixelsError, match="exclude_percentile"):
        fit_mesh_sky(image, np.indices(image.shape).sum(axis=0) % 2, box_size=10)
    fit_mesh_sky(image, np.indices(image.shape).sum(axis=0) % 2, box_size=10, exclude_percentile=60)
    with pytest.raises(ImageShapeError, match="mask has shape"):
        fit_mesh_sky(image, mask[:, 1:], box_size=10)
    with pytest.raises(ImageShapeError, match="data has shape"):
        fit_mesh_sky(image[0], box_size=10)


def test_few_blocks_wait_for_a_mask_that_is_made_with_their_neighbours():
    """Three rows of blocks: one that is taken, and those around it from which its growth and smoothing come."""
    blocks, most = 16, 0

    class Watch(dask.callbacks.Callback):
        def _posttask(self, key, result, graph, state, worker):
            nonlocal most
            most = max(most, sum(name[0] == image.name for name in state["cache"]))

    image = da.random.default_rng(0).normal(size=(blocks * 16, blocks * 16), chunks=16).map_blocks(np.negative)
    with dask.config.set(scheduler="sync"):
        found = detect_sources(smooth(image, 2.0), 1.0, 3)
        grown = grow_mask(found, image, sky_level=0.0, sky_std=1.0, max_grow_size=2)
        with Watch():
            fit_mesh_sky(image, grown, box_size=16, exclude_percentile=100)
    assert 0 < most <= 3 * blocks
