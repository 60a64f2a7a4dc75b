import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from strategies import chunked

from galprep_dask import cutouts, make_image, masks, noise, segmentation, sky, stats
from galprep_dask.arrays import CHUNK_SIDE, as_image, as_mask, like
from galprep_dask.errors import ImageShapeError, ParameterError


@given(chunked("f8"))
def test_every_kind_of_array_gives_the_same_pixels(images):
    whole, lazy = images
    for kind in (whole, lazy, xr.DataArray(whole, dims=("y", "x")), xr.DataArray(lazy), whole.tolist()):
        found = as_image(kind)
        assert isinstance(found, da.Array)
        np.testing.assert_array_equal(found.compute(scheduler="sync"), whole)


def test_dask_arrays_pass_as_they_are(no_compute):
    lazy = da.zeros((5, 6), chunks=2)
    with no_compute():
        assert as_image(lazy) is lazy
        assert as_image(xr.DataArray(lazy, dims=("y", "x"))) is lazy


def test_big_endian_pixels_become_native():
    whole = np.arange(6, dtype=">f4").reshape(2, 3)
    for kind in (whole, da.from_array(whole)):
        found = as_image(kind)
        assert found.dtype == np.dtype("f4")
        assert found.dtype.isnative
        assert found.compute().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_numpy_arrays_get_square_chunks_of_bounded_size():
    assert as_image(np.zeros((1, 2 * CHUNK_SIDE + 1), "u1")).chunks == ((1,), (CHUNK_SIDE, CHUNK_SIDE, 1))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 5)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ImageShapeError, match=r"weight has shape \(.*; expected a two-dimensional image"):
        as_image(np.zeros(shape), "weight")


def test_text_complex_and_masked_arrays_are_refused():
    for array in (np.array([["a"]]), np.zeros((2, 2), complex)):
        with pytest.raises(ParameterError, match="expected real numbers"):
            as_image(array)
    with pytest.raises(ParameterError, match=r"Pass data\.data, and its mask as mask="):
        as_image(np.ma.masked_array(np.zeros((2, 2)), mask=True))


@pytest.mark.parametrize("chunks", [(2, 2, 2), ((1, 1), (2,)), "many", 0])
def test_chunks_that_do_not_fit_are_a_parameter_error(chunks):
    with pytest.raises(ParameterError, match=r"chunks=.* does not fit data of shape \(4, 5\)"):
        as_image(np.zeros((4, 5)), chunks=chunks)


def test_masks_take_the_chunks_of_the_image_and_any_dtype():
    data = da.zeros((2, 3), chunks=(1, 2))
    for mask in ([[0, 2, -1], [0, 0, 256]], [[0, np.nan, 1e-30], [0.0, -0.0, np.inf]]):
        found = as_mask(np.array(mask), data)
        assert found.chunks == data.chunks
        assert found.dtype == bool
        assert found.compute().tolist() == [[False, True, True], [False, False, True]]
    assert as_mask(None, data) is None


def test_shape_errors_name_both_shapes_and_what_to_do():
    with pytest.raises(ImageShapeError) as caught:
        as_mask(np.zeros((3, 2)), da.zeros((2, 3)))
    assert str(caught.value) == (
        "mask has shape (3, 2), but data has (2, 3).\n    Cut or pad mask to the image, or pass mask=None."
    )


def test_results_come_back_as_the_kind_that_went_in():
    result = da.ones((2, 3))
    assert like(result, da.zeros((2, 3))) is result
    assert isinstance(like(result, np.zeros((2, 3))), np.ndarray)
    template = xr.DataArray(np.zeros((2, 3)), dims=("y", "x"), coords={"x": [5, 6, 7]})
    found = like(result, template)
    assert found.dims == ("y", "x")
    assert found.coords["x"].values.tolist() == [5, 6, 7]
    assert found.chunks is not None


def test_chunks_of_unknown_size_are_refused():
    lazy = da.ones((6, 5), chunks=2)
    with pytest.raises(ImageShapeError, match="weight has chunks of unknown size.*compute_chunk_sizes"):
        as_image(lazy[lazy.sum(axis=1) > 0], "weight")


IMAGE = np.random.default_rng(0).normal(0, 1, (30, 40))
SEGMENTS = np.zeros((30, 40), "i4")
SEGMENTS[10:13, 10:13] = 1
STEPS = {
    "make_image": (make_image, {}, ("gain", "exptime", "zeropoint")),
    "statistics": (stats.sigma_clipped_stats, {}, ("sigma", "maxiters")),
    "polynomial": (sky.fit_polynomial_sky, {}, ("order", "sigma_clip", "maxiters")),
    "mesh": (sky.fit_mesh_sky, {"box_size": 10}, ("box_size", "sigma_clip", "maxiters", "exclude_percentile")),
    "piecewise": (sky.fit_piecewise_sky, {}, ("piece_size", "order", "sigma_clip", "maxiters")),
    "sources": (sky.source_mask, {"fwhm": 3.0}, ("fwhm", "n_sigma", "margin", "faint_scales", "addgrow", "sky_level")),
    "threshold": (segmentation.detect_threshold, {"n_sigma": 3.0}, ("n_sigma", "background", "error", "maxiters")),
    "detect": (segmentation.detect_sources, {}, ("threshold",)),
    "deblend": (lambda data, **kw: segmentation.deblend_sources(data, SEGMENTS, 5, **kw), {}, ("contrast",)),
    "grow": (
        lambda data, **kw: masks.grow_mask(SEGMENTS, data, **kw),
        {"sky_level": 0.0, "sky_std": 1.0, "max_grow_size": 5}, ("sky_level", "sky_std", "max_grow_size", "addgrow"),
    ),
    "ellipses": (lambda data, **kw: masks.ellipse_mask(SEGMENTS, data, **kw), {}, ("magnification",)),
    "target": (masks.target_mask, {"x": 11, "y": 11, "fwhm": 3.0}, ("x", "fwhm", "source_diameter", "nearby_grow")),
    "sigma": (noise.sigma_image, {"sky_std": 1.0, "gain": 1.0}, ("sky_std", "gain", "fac1", "fac2")),
    "correlation": (noise.correlation_factor, {}, ("block_size", "sigma_clip")),
    "stamps": (cutouts.extract_stamps, {"x": [10], "y": [10], "size": 5}, ("size",)),
}  # fmt: skip


@pytest.mark.parametrize("wrong", ["3", np.nan, [[1.0, 2.0, 3.0]], 1j])
@pytest.mark.parametrize(("step", "name"), [(step, name) for step, (*_, names) in STEPS.items() for name in names])
def test_a_parameter_that_is_no_number_is_named(step, name, wrong):
    function, others, _ = STEPS[step]
    with pytest.raises((ParameterError, ImageShapeError), match=name):
        function(IMAGE, **(others | {name: wrong}))
