import numpy as np
import pytest
from fields import gaussian
from hypothesis import given, settings
from hypothesis import strategies as st

from galprep_dask.psf._kernels.shapes import COLUMNS, TO_FWHM, _median, measure_shapes
from galprep_dask.psf._kernels.windows import cut_windows, empty_windows, paste_windows

SHAPE = (81, 91)


def measure(image, *, labels=None, bad=None, start=None, width=2.0, size=25, saturate=np.inf):
    labels = np.ones(image.shape, np.int32) if labels is None else labels
    bad = np.zeros(image.shape, bool) if bad is None else bad
    start = np.unravel_index(np.argmax(np.where(bad, -np.inf, image)), image.shape) if start is None else start
    for array in (image, labels, bad):
        array.flags.writeable = False
    row = measure_shapes(
        image, labels, bad, np.ones(1), np.array([start]), np.array([1]), width=width, size=size, saturate=saturate
    )[0]  # fmt: skip
    return dict(zip(COLUMNS, row, strict=True)) | {"start": start}


@pytest.mark.parametrize("sigma", [1.2, 1.7, 2.5])
@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, -0.45)])
def test_a_gaussian_is_measured_exactly(sigma, dx, dy):
    found = measure(gaussian(SHAPE, 45 + dx, 40 + dy, 1000.0, sigma))
    assert found["width"] == pytest.approx(sigma, rel=2e-3)
    position = found["x"] + found["start"][1], found["y"] + found["start"][0]
    assert position == pytest.approx((45 + dx, 40 + dy), abs=1e-3)
    assert found["profile_fwhm"] == pytest.approx(TO_FWHM * sigma, rel=2e-3)
    assert found["concentration"] == pytest.approx(np.log(1.6), abs=5e-3)  # (1/1 + 1) / (1/4 + 1) of a Gaussian
    assert np.hypot(found["e1"], found["e2"]) < 5e-3
    assert found["snr"] == pytest.approx(1000 / (2 * np.sqrt(np.pi) * sigma), rel=5e-3)


def test_a_star_narrower_than_two_pixels_is_off_by_little():
    """Sums over so few pixels are no integrals; all stars of an image are off by about the same."""
    widths = [measure(gaussian(SHAPE, 45 + d, 40 - d, 1000.0, 0.85))["width"] for d in np.linspace(-0.5, 0.5, 11)]
    np.testing.assert_allclose(widths, 0.85, rtol=0.035)


def test_ellipticity_has_the_sign_and_size_of_the_axes():
    along_x = measure(gaussian(SHAPE, 45, 40, 1000.0, 2.1, 1.9))
    expected = (2.1**2 - 1.9**2) / (2.1**2 + 1.9**2)
    assert along_x["e1"] == pytest.approx(expected, rel=0.02)
    turned = measure(gaussian(SHAPE, 45, 40, 1000.0, 2.1, 1.9, np.pi / 4))
    assert turned["e1"] == pytest.approx(0, abs=1e-6)
    assert turned["e2"] == pytest.approx(expected, rel=0.02)


def test_moffat_profile_at_half_of_its_peak():
    y, x = np.indices(SHAPE)
    alpha = 4.0 / (2 * np.sqrt(2 ** (1 / 3.0) - 1))
    image = 1000 * (1 + ((x - 45.2) ** 2 + (y - 40.1) ** 2) / alpha**2) ** -3.0
    assert measure(image)["profile_fwhm"] == pytest.approx(4.0, rel=0.01)


def test_neighbours_and_bad_pixels_are_replaced_by_their_opposites():
    star = gaussian(SHAPE, 45, 40, 1000.0, 2.0)
    alone = measure(star.copy())
    neighbour = gaussian(SHAPE, 52, 40, 3000.0, 1.5)
    labels = np.where(neighbour > 0.01, 2, 1).astype(np.int32)
    crowded = measure(np.where(labels == 2, star + neighbour, star), labels=labels, start=(40, 45))
    bad = np.zeros(SHAPE, bool)
    bad[36:45, 47] = True
    spoilt = measure(np.where(bad, 1e30, star), bad=bad)
    for found in (crowded, spoilt):
        assert found["width"] == pytest.approx(alone["width"], rel=2e-3)
    assert spoilt["n_bad_core"] == 9
    assert crowded["n_owned_core"] > 0


def test_sky_that_was_left_is_taken_off():
    star = gaussian(SHAPE, 45, 40, 1000.0, 1.5)
    labels = (star > 0.5).astype(np.int32)
    assert measure(star + 3.0, labels=labels, width=1.5)["width"] == pytest.approx(1.5, rel=0.01)


def test_pixels_of_box_and_centre_are_counted():
    star = gaussian(SHAPE, 4, 40, 1000.0, 1.5)
    labels = np.ones(SHAPE, np.int32)
    labels[30:34, 0:10] = 3
    bad = np.zeros(SHAPE, bool)
    bad[40, 8] = bad[40, 12] = True
    found = measure(star, labels=labels, bad=bad, size=25)
    assert found["n_owned_box"] == 4 * 10  # the box has rows 28 to 52, and columns from beyond the edge to 16
    y, x = np.indices((25, 25)) - 12
    central = y**2 + x**2 <= (0.25 * 25) ** 2
    beyond = central & (x + 4 < 0)
    assert found["n_bad_centre"] == beyond.sum() + 1


def test_what_has_no_shape_is_nan():
    assert np.isnan(measure(np.full(SHAPE, -1.0), start=(40, 45))["width"])
    trend = np.add.outer(np.arange(81.0), np.zeros(91))
    assert np.isnan(measure(trend, start=(40, 45))["width"])


def test_saturated_and_flat_pixels_are_counted():
    star = np.minimum(gaussian(SHAPE, 45, 40, 1000.0, 2.0), 20.0)
    found = measure(star, saturate=20.0)
    assert found["n_saturated"] == found["n_flat"] == (star == 20).sum() > 9


@settings(max_examples=200)
@given(
    values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 1e-300, 5e30]), min_size=1,
                    max_size=80)
)  # fmt: skip
def test_median_is_numpys(values):
    values = np.array(values)
    assert _median(values, np.empty(len(values) + 1)) == pytest.approx(np.median(values), rel=1e-15, abs=0)


def test_median_of_many_equal_values():
    values = np.array([3.0] * 50 + [4.0] * 50)
    assert _median(values, np.empty(101)) == 3.5
    assert _median(values[:-1], np.empty(101)) == 3.0
    assert _median(np.append(values, 4.0), np.empty(102)) == 4.0


def test_windows_across_blocks_are_put_together():
    image = np.random.default_rng(0).normal(size=(20, 17))
    side, corners = 9, np.array([[-4, 3], [6, 5], [13, 10]])
    windows = empty_windows(3, side, image.dtype)
    for y0, y1 in ((0, 8), (8, 9), (9, 20)):
        for x0, x1 in ((0, 7), (7, 17)):
            block, here = image[y0:y1, x0:x1], corners - (y0, x0)
            paste_windows(cut_windows(block, here, side), here, np.arange(3), block.shape, windows)
    padded = np.pad(image, side, constant_values=np.nan)
    for window, (y, x) in zip(windows.reshape(3, side, side), corners + side, strict=True):
        np.testing.assert_array_equal(window, padded[y : y + side, x : x + side])
    assert not empty_windows(2, side, bool).any()
