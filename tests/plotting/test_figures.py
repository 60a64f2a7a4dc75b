import zlib

import dask
import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from galprep_dask.errors import ImageShapeError, OutputError, ParameterError
from galprep_dask.gsutils import normimg
from galprep_dask.plotting import _display, plot_cutout, plot_segments, plot_sky, plot_truth
from galprep_dask.stats import sigma_clipped_stats


@pytest.fixture
def data():
    image = np.random.default_rng(7).normal(50, 2, (30, 40))
    image[10:14, 20:25] += 300
    image[3, 4], image[5, 6] = np.nan, np.inf
    image.flags.writeable = False
    return image


@pytest.fixture
def mask(data):
    mask = data > 100
    mask[25:, :3] = True
    mask.flags.writeable = False
    return mask


def finite_or_nan(image):
    return np.where(np.isfinite(image), image, np.nan)


def shown(axes, number=0):
    return axes.images[number].get_array()


def boxes(image, step, reduction):
    """The boxes of an image, reduced one after the other: slow, and plain to read."""
    ny, nx = (n // step for n in image.shape)
    return np.array(
        [[reduction(image[j * step :, i * step :][:step, :step]) for i in range(nx)] for j in range(ny)]
    )


def read_png_size(path):
    """Check every chunk of a PNG file, and give its width and height."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    position, kinds, size = 8, [], None
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunk = content[position + 4 : position + 8 + length]
        assert zlib.crc32(chunk) == int.from_bytes(
            content[position + 8 + length : position + 12 + length], "big"
        )
        kinds.append(chunk[:4])
        if chunk[:4] == b"IHDR":
            size = int.from_bytes(chunk[4:8], "big"), int.from_bytes(chunk[8:12], "big")
        position += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
    return size


def figures(data, mask, **kwargs):
    labels = 3 * mask
    yield "sky", lambda **more: plot_sky(data, data, data, **kwargs, **more)
    yield "cutout", lambda **more: plot_cutout(data, mask, sigma=abs(data), target=(22, 12), **kwargs, **more)
    yield "segments", lambda **more: plot_segments(data, labels, mask, **kwargs, **more)
    yield "truth", lambda **more: plot_truth([("flux", [1, 2], [1, 2.1], [0.1, 0.1])], **kwargs, **more)


FIGURES = ["sky", "cutout", "segments", "truth"]


# All figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_written_as_a_whole_png_of_the_size_of_the_figure(name, data, mask, tmp_path):
    path = tmp_path / "no suffix at all"
    path.write_text("what was there before")
    figure = dict(figures(data, mask))[name](path=path)
    assert isinstance(figure, Figure)
    assert read_png_size(path) == pytest.approx(figure.get_size_inches() * 120, abs=1)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", FIGURES)
def test_a_directory_that_does_not_exist_is_named(name, data, mask, tmp_path):
    with pytest.raises(OutputError, match="missing"):
        dict(figures(data, mask))[name](path=str(tmp_path / "missing" / "figure.png"))


@pytest.mark.parametrize("name", FIGURES)
def test_any_title_can_be_drawn(name, data, mask, tmp_path):
    title = r"NGC $1 $\undefined{ 50% _x^"
    figure = dict(figures(data, mask, title=title))[name](path=tmp_path / "figure.png")
    assert figure.get_suptitle() == title


def test_no_state_of_matplotlib_is_touched(data, mask, tmp_path):
    before, figures_of_pyplot = dict(mpl.rcParams), dict(Gcf.figs)
    for name, plot in figures(data, mask):
        plot(path=tmp_path / name)
    assert dict(mpl.rcParams) == before
    assert Gcf.figs == figures_of_pyplot
    assert mpl.colormaps["seismic"].get_bad().tolist() == [0, 0, 0, 0]


def test_kinds_of_arrays_give_the_same_picture(data, mask):
    chunked = [da.from_array(array, chunks=(7, 11)) for array in (data, mask)]
    named = [xr.DataArray(array, dims=("y", "x")) for array in chunked]
    swapped = [data.astype(">f8"), mask]
    for other in (chunked, named, swapped):
        for (_, plot), (_, same) in zip(figures(data, mask), figures(*other), strict=True):
            for expected, found in zip(plot().axes, same().axes, strict=True):
                for number in range(len(expected.images)):
                    np.testing.assert_array_equal(shown(found, number), shown(expected, number))


# Shrinking -----------------------------------------------------------------------------------------------


sides, chunk_sides = st.integers(1, 60), st.integers(1, 25)


@given(sides, sides, chunk_sides, chunk_sides, st.integers(3, 20), st.integers(0, 100))
def test_shrinking_does_not_depend_on_the_chunks(ny, nx, chunk_y, chunk_x, side, seed):
    image = np.random.default_rng(seed).normal(size=(ny, nx))
    image[image > 1.5] = np.nan
    chunked = da.from_array(image, chunks=(chunk_y, chunk_x))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_display, "MAX_SIDE", side)
        mean = _display.shrink_mean(chunked, "data", image.shape)
        masked = _display.shrink_any(~da.isfinite(chunked), "mask", image.shape)
        step = _display.steps(image.shape)
        left, right, bottom, top = _display.extent(image.shape)
    assert max(mean.shape) <= side
    assert min(mean.shape) >= 1
    assert (bottom, left) == (-0.5, -0.5)
    assert (top + 0.5, right + 0.5) == (mean.shape[0] * step[0], mean.shape[1] * step[1])
    rows, columns = (np.arange(n) * s for n, s in zip(mean.shape, step, strict=True))
    pieces = [[image[j : j + step[0], i : i + step[1]] for i in columns] for j in rows]
    finite = np.array([[np.isfinite(piece).sum() for piece in row] for row in pieces])
    total = np.array([[np.nansum(piece) for piece in row] for row in pieces])
    np.testing.assert_allclose(
        mean.compute(), np.where(finite > 0, total / np.maximum(finite, 1), np.nan), atol=1e-12
    )
    np.testing.assert_array_equal(masked.compute(), finite < step[0] * step[1])


def test_large_images_are_shrunk_before_anything_is_gathered(no_compute, monkeypatch):
    big = da.random.default_rng(0).normal(10, 1, (5000, 3000), chunks=1000).astype("f4")
    with no_compute():
        small = _display.shrink_mean(big, "data", big.shape)
    assert small.shape == (1000, 600)
    results = []
    compute = dask.compute
    monkeypatch.setattr(dask, "compute", lambda *lazy: results.append(lazy) or compute(*lazy))
    figure = plot_sky(big, da.full_like(big, 10), big - 10)
    # One computation for all panels, so that what they share is read once.
    assert [image.shape for image in results[0]] == [(1000, 600)] * 3
    assert shown(figure.axes[0]).shape == (1000, 600)
    assert figure.axes[0].images[0].get_extent() == [-0.5, 2999.5, -0.5, 4999.5]


def test_a_box_is_masked_if_any_pixel_is_and_has_the_highest_label(monkeypatch):
    monkeypatch.setattr(_display, "MAX_SIDE", 10)
    rng = np.random.default_rng(5)
    labels = rng.integers(1, 9, (32, 40)) * (rng.uniform(size=(32, 40)) > 0.95)
    image, mask = rng.normal(size=labels.shape), rng.uniform(size=labels.shape) > 0.95
    figure = plot_segments(image, labels, mask)
    highest, grown = boxes(labels, 4, np.max), boxes(mask, 4, np.any)
    picture = shown(figure.axes[1])
    assert picture.shape == (8, 10, 3)
    np.testing.assert_array_equal((picture == 1).all(-1), ~grown & (highest == 0))
    np.testing.assert_array_equal((picture == 0.75).all(-1), grown & (highest == 0))
    overlay = shown(plot_cutout(image, mask).axes[0], 1)
    np.testing.assert_array_equal(~np.ma.getmaskarray(overlay), grown)


# Sky -----------------------------------------------------------------------------------------------------


def test_sky_panels_show_normimg_of_the_data(data):
    before, sky = data.copy(), np.full(data.shape, 49.0)
    figure = plot_sky(data, sky, data - sky)
    _, median, std = sigma_clipped_stats(data)
    for axes, image, centre in zip(figure.axes, (data, sky, data - sky), (median, median, 0), strict=False):
        expected = normimg(finite_or_nan(image), std, 5 * std, sky=centre, frac=0.6)
        np.testing.assert_array_equal(shown(axes), expected)
        assert axes.images[0].get_clim() == (-1, 1)
        assert axes.images[0].get_cmap().name == "seismic"
        assert axes.images[0].origin == "lower"
    assert [axes.get_title().splitlines()[0] for axes in figure.axes[:3]] == [
        "original", "sky model", "sky subtracted",
    ]  # fmt: skip
    np.testing.assert_array_equal(data, before)


def test_sky_colour_bar_is_labelled_in_standard_deviations(data):
    bar = plot_sky(data, data, data).axes[3]
    labels = [label.get_text() for label in bar.get_yticklabels()]
    ticks = dict(zip(labels, bar.get_yticks(), strict=True))
    assert ticks["0"] == 0
    assert (ticks["-5"], ticks["+5"]) == (-1, 1)
    assert (ticks["-1"], ticks["+1"]) == (-0.6, 0.6)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan, np.inf])
def test_images_without_any_structure_can_be_drawn(value, tmp_path):
    flat = np.full((20, 30), value)
    for name, plot in figures(flat, np.ones(flat.shape, bool)):
        plot(path=tmp_path / name)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2)])
def test_tiny_images_can_be_drawn(shape, tmp_path):
    image = np.arange(float(np.prod(shape))).reshape(shape)
    for name, plot in figures(image, image > 1):
        plot(path=tmp_path / name)


def test_shapes_that_differ_are_named(data, mask):
    with pytest.raises(ImageShapeError, match=r"sky has shape \(3, 3\)"):
        plot_sky(data, np.zeros((3, 3)), data)
    with pytest.raises(ImageShapeError, match=r"subtracted has shape \(3, 3\)"):
        plot_sky(data, data, np.zeros((3, 3)))
    with pytest.raises(ImageShapeError, match="mask has shape"):
        plot_cutout(data, mask[1:])
    with pytest.raises(ImageShapeError, match="sigma has shape"):
        plot_cutout(data, mask, sigma=data[1:])
    with pytest.raises(ImageShapeError, match="labels has shape"):
        plot_segments(data, mask[1:], mask)


def test_sky_may_be_a_model_and_what_is_left_be_worked_out():
    from galprep_dask import make_image
    from galprep_dask.sky import ConstantSky

    pixels = np.random.default_rng(3).normal(10, 1, (40, 50)).astype("f4")
    image = make_image(da.from_array(pixels, chunks=13))
    model = ConstantSky(10.0, 1.0, "median")
    by_hand = plot_sky(pixels, np.full(pixels.shape, 10.0), pixels - 10.0)
    for figure in (plot_sky(image, model), plot_sky(image["data"], model.evaluate(pixels.shape, 20))):
        for found, expected in zip(figure.axes[:3], by_hand.axes, strict=False):
            np.testing.assert_allclose(shown(found), shown(expected), atol=1e-6)


def test_tasks_of_a_figure_do_not_grow_with_the_image():
    for side in (8, 32):
        image = da.zeros((2048 * side, 2048 * side), chunks=2048, dtype="f4")
        small = _display.shrink_mean(image, "data", image.shape)
        assert max(small.shape) <= _display.MAX_SIDE
        assert len(small.__dask_graph__()) <= 8 * side**2


# Cutout --------------------------------------------------------------------------------------------------


def test_cutout_overlay_covers_the_masked_pixels_and_no_others(data, mask):
    axes = plot_cutout(data, mask).axes[0]
    image, overlay = axes.images
    np.testing.assert_array_equal(~np.ma.getmaskarray(overlay.get_array()), mask)
    assert 0 < overlay.get_alpha() < 1
    assert overlay.get_extent() == image.get_extent() == [-0.5, 39.5, -0.5, 29.5]
    assert overlay.get_zorder() >= image.get_zorder()


@pytest.mark.parametrize("under", [0.0, 1e30, np.nan])
def test_cutout_colours_do_not_depend_on_what_lies_under_the_mask(under, data, mask):
    changed = np.where(mask, under, data)
    expected, found = (
        np.ma.filled(shown(plot_cutout(image, mask).axes[0]), np.nan) for image in (data, changed)
    )
    np.testing.assert_array_equal(found[~mask], expected[~mask])


def test_cutout_shows_normimg_of_the_image(data, mask):
    _, _, std = sigma_clipped_stats(data, mask)
    good = np.isfinite(data) & ~mask
    for how, sky in (({}, 0.0), ({"sky": 50.0}, 50.0)):
        immax = max(10 * std, np.max(np.abs(data[good] - sky)))
        expected = normimg(finite_or_nan(data), 5 * std, immax, sky=sky, frac=0.4)
        axes, bar = plot_cutout(data, mask, **how).axes
        np.testing.assert_array_equal(shown(axes), expected)
        labels = [label.get_text() for label in bar.get_yticklabels()]
        ticks = dict(zip(labels, bar.get_yticks(), strict=True))
        assert ticks[f"{sky:.3g}"] == 0
        assert ticks[f"{sky + 5 * std:.3g}"] == pytest.approx(0.4)
        assert ticks[f"{sky + immax:.3g}"] == pytest.approx(1)


def test_cutout_without_a_mask_has_no_overlay(data):
    assert np.ma.getmaskarray(shown(plot_cutout(data).axes[0], 1)).all()


def test_cutout_of_a_dataset_is_that_of_its_planes(data, mask):
    from galprep_dask import make_image

    sigma = np.full(data.shape, 2.0)
    image = make_image(da.from_array(data, chunks=7), mask=mask, sigma=sigma)
    other = ~mask
    for found, expected in (
        (plot_cutout(image), plot_cutout(data, mask, sigma=sigma)),
        (plot_cutout(image, other, sigma=3 * sigma), plot_cutout(data, other, sigma=3 * sigma)),
        (plot_cutout(image.drop_vars(["sigma", "mask"])), plot_cutout(data)),
    ):
        assert len(found.axes) == len(expected.axes)
        for one, two in zip(found.axes, expected.axes, strict=True):
            for number in range(len(two.images)):
                np.testing.assert_array_equal(shown(one, number), shown(two, number))


def test_cutout_marks_the_target_and_only_if_there_is_one(data, mask):
    axes = plot_cutout(data, mask, target=(22, 12)).axes[0]
    assert {(*line.get_xdata(), *line.get_ydata()) for line in axes.lines} == {(22, 12)}
    assert "target" in [text.get_text() for text in axes.get_legend().get_texts()]
    assert axes.get_xlim() == (-0.5, 39.5)
    assert not plot_cutout(data, mask).axes[0].lines


def test_sigma_adds_its_image_and_the_distribution_of_unmasked_pixels(data, mask):
    sigma = np.full(data.shape, 2.0)
    sigma[0, 0], sigma[1, 1] = 0, np.nan
    assert len(plot_cutout(data, mask).axes) == 2
    figure = plot_cutout(data - 50, mask, sigma=sigma)
    _, noise, distribution, *bars = figure.axes
    assert len(bars) == 2
    np.testing.assert_array_equal(shown(noise), sigma)
    with np.errstate(divide="ignore"):
        pulls = (data - 50) / sigma
    counted, edges, _ = distribution.patches[0].get_data()
    good = np.isfinite(pulls) & ~mask
    np.testing.assert_allclose(
        counted * good.sum() * np.diff(edges), np.histogram(pulls[good], edges)[0], atol=1e-9
    )
    assert np.sum(counted * np.diff(edges)) == pytest.approx(1)
    x, gaussian = distribution.lines[0].get_data()
    assert np.trapezoid(gaussian, x) == pytest.approx(1, abs=1e-6)
    assert np.trapezoid(x**2 * gaussian, x) == pytest.approx(1, abs=1e-5)


def test_distribution_of_a_large_image_is_that_of_single_pixels(monkeypatch):
    monkeypatch.setattr(_display, "MAX_SIDE", 50)
    noise = da.from_array(np.random.default_rng(1).normal(size=(400, 400)), chunks=90)
    title = plot_cutout(noise, None, sigma=da.ones_like(noise)).axes[2].get_title()
    assert float(title.split("=")[1]) == pytest.approx(1, abs=0.05)


# Segments ------------------------------------------------------------------------------------------------


def test_a_label_has_one_colour_in_every_figure_and_no_other_label_has_it():
    labels = np.arange(400).reshape(20, 20)
    picture = shown(plot_segments(np.zeros(labels.shape), labels).axes[1])
    flat = picture.reshape(-1, 3)
    assert len(np.unique(flat.round(6), axis=0)) == 400
    np.testing.assert_array_equal(flat[0], to_rgb("white"))
    alone = shown(plot_segments(np.zeros((5, 5)), np.full((5, 5), 77)).axes[1])
    np.testing.assert_array_equal(alone, np.broadcast_to(flat[77], (5, 5, 3)))
    assert not (
        np.ptp(flat[1:], axis=1) < 0.1
    ).any()  # none may be taken for the white sky or the grey growth


def test_segments_lie_over_the_growth(data, mask):
    labels = np.zeros(data.shape, "i4")
    labels[10:14, 20:25] = 3
    grown = np.zeros(data.shape, bool)
    grown[8:16, 18:27] = True
    figure = plot_segments(data, labels, grown)
    picture = shown(figure.axes[1])
    np.testing.assert_array_equal((picture == to_rgb("0.75")).all(-1), grown & (labels == 0))
    np.testing.assert_array_equal((picture == 1).all(-1), ~grown)
    (outline,) = figure.axes[0].collections
    path = outline.get_paths()[0].vertices
    np.testing.assert_allclose([path.min(0), path.max(0)], [[17.5, 7.5], [26.5, 15.5]])


def test_segments_without_a_mask(data):
    figure = plot_segments(data, np.zeros(data.shape, int))
    assert not figure.axes[0].collections
    assert (shown(figure.axes[1]) == 1).all()


# Truth ---------------------------------------------------------------------------------------------------


def points(axes):
    return np.array(axes.lines[1].get_data())


def test_positive_truth_is_shown_as_a_ratio():
    truth, result = np.array([1.0, 2, 40]), np.array([1.1, 1.8, 42])
    (axes,) = plot_truth([("flux", truth, result, 0.1 * truth)]).axes
    assert axes.get_title() == "flux"
    assert axes.get_ylabel() == "result / truth"
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(points(axes), [truth, result / truth])
    assert set(axes.lines[0].get_ydata()) == {1}
    bars = np.array([segment[:, 1] for segment in axes.collections[0].get_segments()])
    np.testing.assert_allclose(np.ptp(bars, axis=1), 0.2)


def test_other_truth_is_shown_as_a_difference():
    truth, result = np.array([-1.0, 0, 1]), np.array([-1.1, 0.2, 1])
    (axes,) = plot_truth([("shift", truth, result, None)]).axes
    assert axes.get_ylabel() == "result - truth"
    assert axes.get_xscale() == "linear"
    np.testing.assert_allclose(points(axes), [truth, result - truth])
    assert set(axes.lines[0].get_ydata()) == {0}


def test_truth_that_drowns_in_its_error_is_shown_as_a_difference():
    table = [("flux", [2.0, 9], [2.5, 8], [0.7, 0.7]), ("bright", [2.2, 9], [2.5, 8], [0.7, 0.7])]
    labels = [axes.get_ylabel() for axes in plot_truth(table).axes]
    assert labels == ["result - truth", "result / truth"]


def test_words_count_what_is_missing_and_how_far_the_rest_is():
    truth = np.full(10, 2.0)
    result = np.array([2.2] * 5 + [2.4] * 4 + [np.nan])
    (axes,) = plot_truth([("flux", truth, result, np.full(10, 0.3))]).axes
    words = axes.texts[0].get_text()
    assert "9 of 10 measured" in words
    assert "median +0.1," in words
    assert "56% within 1 sigma" in words


def test_panel_for_every_quantity_numbers_included():
    table = [(f"quantity {n}", 5.0, 5.1, 0.2) for n in range(7)]
    figure = plot_truth(iter(table))
    assert [axes.get_title() for axes in figure.axes] == [name for name, *_ in table]


def test_nothing_measured_is_said_and_drawn(tmp_path):
    (axes,) = plot_truth([("flux", [1.0, 2], [np.nan, np.nan], [0.1, np.nan])], path=tmp_path / "a.png").axes
    assert axes.texts[0].get_text() == "0 of 2 measured"


def test_tables_that_make_no_sense():
    with pytest.raises(ParameterError, match="empty"):
        plot_truth([])
    with pytest.raises(ImageShapeError, match=r"result of 'flux' has shape \(2,\)"):
        plot_truth([("flux", [1, 2, 3], [1, 2], None)])
    with pytest.raises(ImageShapeError, match=r"error of 'flux' has shape \(2,\)"):
        plot_truth([("flux", [1, 2, 3], [1, 2, 3], [1, 2])])
