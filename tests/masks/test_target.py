import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from strategies import chunks_for

from galprep_dask.errors import ImageShapeError, NoGoodPixelsError, ParameterError
from galprep_dask.masks import grow_segmentation, target_mask
from galprep_dask.segmentation import deblend_sources, detect_sources, smooth
from galprep_dask.stats import sigma_clipped_stats

SHAPE = (101, 121)
Y, X = np.indices(SHAPE)


def blob(y0, x0, peak=1.0, width=3.0):
    return peak * np.exp(-((Y - y0) ** 2 + (X - x0) ** 2) / (2 * width**2))


def with_noise(light):
    image = light + np.random.default_rng(0).normal(0, 0.01, SHAPE)
    image.flags.writeable = False
    return image


# The target at (50, 50), a neighbour whose growth meets it, one far off.
APART = with_noise(blob(50, 50) + blob(50, 72, 2.0) + blob(20, 100, 3.0))
# The target and a companion in one segment, one far off.
BLEND = with_noise(blob(50, 50) + blob(50, 60, 0.6, 2.0) + blob(20, 100, 3.0))
BASE = {"fwhm": 2.5, "max_grow_size": 20}


def segments_of(image, bad=None, n_sigma=3.0):
    _, median, std = sigma_clipped_stats(image, bad)
    smoothed = smooth(image, 2.5, bad)
    return smoothed, np.asarray(detect_sources(smoothed, median + n_sigma * std, mask=bad)), median, std


def segment_at(labels, y, x):
    assert labels[y, x] > 0
    return labels == labels[y, x]


def test_masks_the_growth_of_all_segments_but_the_targets():
    _, labels, median, std = segments_of(APART)
    grown = grow_segmentation(labels, APART, sky_level=median, sky_std=std, max_grow_size=20)
    masked = target_mask(APART, 50, 50, **BASE)
    np.testing.assert_array_equal(masked, (grown > 0) & (grown != labels[50, 50]))
    assert labels[50, 72] not in (0, labels[50, 50])
    assert masked[50, 72]
    assert masked[20, 100]
    assert not masked[segment_at(labels, 50, 50)].any()


def test_growth_never_enters_the_targets_segment():
    _, labels, _, _ = segments_of(APART)
    target = segment_at(labels, 50, 50)
    for keywords in (
        {"addgrow": 60},
        {"nearby_grow": 60},
        {"shape": "ellipses", "magnification": 15},
        {"shape": "ellipses", "addgrow": 60},
    ):
        masked = target_mask(APART, 50, 50, **BASE, **keywords)
        assert not masked[target].any()
        assert masked.sum() > 500


def test_fwhm():
    spike = APART.copy()
    spike[80, 20] = 10.0
    assert not target_mask(spike, 50, 50, fwhm=0.5)[80, 20]
    assert target_mask(spike, 50, 50, fwhm=4.0)[80, 20]


def test_n_sigma():
    assert target_mask(APART, 50, 50, **BASE)[50, 72]
    masked = target_mask(APART, 50, 50, **BASE, n_sigma=230)
    assert not masked[50, 72]
    assert masked[20, 100]


def test_n_pixels():
    _, labels, _, _ = segments_of(APART)
    size, far = (segment_at(labels, *at).sum() for at in ((50, 72), (20, 100)))
    masked = target_mask(APART, 50, 50, **BASE, n_pixels=int(size) + 1)
    assert far > size
    assert not masked[50, 72]
    assert masked[20, 100]


def test_connectivity():
    image = np.random.default_rng(0).normal(0, 0.01, SHAPE)
    image[40:50, 40:50] = image[50:60, 50:60] = 1.0
    corner = {"fwhm": 0.3, "max_grow_size": 0}
    assert not target_mask(image, 45, 45, **corner, connectivity=8)[50:60, 50:60].any()
    assert target_mask(image, 45, 45, **corner, connectivity=4)[50:60, 50:60].all()


def test_deblend_and_its_parameters():
    assert not target_mask(BLEND, 50, 50, **BASE)[50, 60]
    masked = target_mask(BLEND, 50, 50, **BASE, deblend=True)
    assert masked[50, 60]
    assert not masked[50, 50]
    assert not target_mask(BLEND, 50, 50, **BASE, deblend=True, contrast=0.9)[50, 60]
    assert not target_mask(BLEND, 50, 50, **BASE, deblend=True, n_levels=1)[50, 60]
    smoothed, labels, median, std = segments_of(BLEND)
    children = np.asarray(deblend_sources(smoothed, labels))
    grown = grow_segmentation(children, BLEND, sky_level=median, sky_std=std, max_grow_size=20)
    np.testing.assert_array_equal(masked, (grown > 0) & (grown != children[50, 50]))


def test_source_diameter_takes_every_segment_that_touches_the_circle():
    assert target_mask(APART, 50, 50, **BASE, source_diameter=20)[50, 72]
    masked = target_mask(APART, 50, 50, **BASE, source_diameter=40)
    assert not masked[50, 72]
    assert masked[20, 100]
    # A circle without a size is the pixel under it, to its very edge.
    _, labels, _, _ = segments_of(APART)
    edge = X[50][segment_at(labels, 50, 50)[50]].max()
    assert not target_mask(APART, edge + 0.49, 50, **BASE, source_diameter=0)[50, 50]
    assert target_mask(APART, edge + 0.51, 50, **BASE, source_diameter=0)[50, 50]


def test_sky_level_is_where_growth_stops():
    areas = [target_mask(APART, 50, 50, **BASE, sky_level=level).sum() for level in (-0.5, None, 0.03, 1.0)]
    _, labels, median, _ = segments_of(APART)
    assert areas[0] > areas[1] > areas[3]
    assert areas[1] >= areas[2] >= areas[3]
    assert areas[3] == ((labels > 0) & ~segment_at(labels, 50, 50)).sum()
    assert target_mask(APART, 50, 50, **BASE, sky_level=median).sum() == areas[1]


def test_max_grow_size():
    _, labels, _, _ = segments_of(APART)
    others = (labels > 0) & ~segment_at(labels, 50, 50)
    for rings in (0, 1):
        masked = target_mask(APART, 50, 50, fwhm=2.5, max_grow_size=rings, sky_level=-1.0)
        assert masked[others].all()
        assert (masked.sum() > others.sum()) == bool(rings)


def test_addgrow():
    for shape in ("growth", "ellipses"):
        base = target_mask(APART, 50, 50, **BASE, shape=shape)
        more = target_mask(APART, 50, 50, **BASE, shape=shape, addgrow=4)
        assert more[base].all()
        assert more[20, 100 + np.count_nonzero(base[20, 100:]) + 2]


def test_shape_and_magnification():
    sizes = []
    for magnification in (1.0, 3.0, 5.0):
        masked = target_mask(APART, 50, 50, **BASE, shape="ellipses", magnification=magnification)
        sizes.append(masked[:40].sum())  # the one far off: a Gaussian of sigma 3, nearly whole
        assert sizes[-1] == pytest.approx(np.pi * (3 * magnification) ** 2, rel=0.2)
    assert target_mask(APART, 50, 50, **BASE)[:40].sum() not in sizes


@pytest.mark.parametrize(
    ("image", "touches", "keywords"),
    [
        (BLEND, True, {"deblend": True}),
        (BLEND, True, {"deblend": True, "shape": "ellipses"}),
        (APART, True, {"shape": "ellipses", "magnification": 5}),
        (APART, False, {"shape": "ellipses", "magnification": 3}),
        (APART, False, {}),  # the target's own surroundings lie between
    ],
)
def test_nearby_grow_is_for_neighbours_whose_mask_touches_the_target_only(image, touches, keywords):
    base = target_mask(image, 50, 50, **BASE, **keywords)
    more = target_mask(image, 50, 50, **BASE, **keywords, nearby_grow=6)
    assert base[50, 60 if image is BLEND else 72]
    np.testing.assert_array_equal(more[:30, 85:], base[:30, 85:])  # the one far off
    assert more[base].all()
    assert (more.sum() > base.sum() + 20) == touches
    assert (more == base).all() != touches


@pytest.mark.parametrize("shape", ["growth", "ellipses"])
def test_keep_target(shape):
    _, labels, _, _ = segments_of(APART)
    kept = target_mask(APART, 50, 50, **BASE, shape=shape)
    masked = target_mask(APART, 50, 50, **BASE, shape=shape, keep_target=False)
    assert masked[segment_at(labels, 50, 50)].all()
    assert masked[kept].all()
    assert (masked & ~kept).sum() > segment_at(labels, 50, 50).sum()  # its surroundings too


def test_always():
    always = np.zeros(SHAPE, "u1")
    always[48:52, 49] = always[90, 10] = 1
    base = target_mask(APART, 50, 50, **BASE)
    masked = target_mask(APART, 50, 50, **BASE, always=always)
    np.testing.assert_array_equal(masked, base | (always > 0))


@pytest.mark.parametrize("shape", ["growth", "ellipses"])
def test_bad_pixels_are_masked_and_what_they_hold_does_not_count(shape):
    bad = np.zeros(SHAPE, bool)
    bad[50, 45:56] = bad[70:73, 70:73] = bad[52, 70] = True
    expected = target_mask(BLEND, 50, 50, **BASE, shape=shape, mask=bad, deblend=True)
    assert expected[bad].all()
    for hidden in (0.0, 1e30, np.nan, -np.inf):
        pixels = np.where(bad, hidden, BLEND)
        found = target_mask(pixels, 50, 50, **BASE, shape=shape, mask=bad, deblend=True)
        np.testing.assert_array_equal(found, expected)
    holes = np.where(bad, np.nan, BLEND)
    np.testing.assert_array_equal(target_mask(holes, 50, 50, **BASE, shape=shape, deblend=True), expected)


def test_a_neighbour_inside_the_targets_ellipse_is_masked_whatever_the_labels():
    # The label of what comes first in the image is lower: above the target, then below it.
    for y in (41, 59):
        image = with_noise(blob(50, 50, 1.0, 6.0) + blob(y, 50, 1.5, 1.0))
        masked = target_mask(image, 50, 50, fwhm=1.5, shape="ellipses", deblend=True)
        assert masked[y, 50]
        assert not masked[50, 50]


def test_transposed_and_scaled_images_give_the_same_mask():
    image = np.round(APART * 4096)
    expected = target_mask(image, 50, 50, **BASE)
    np.testing.assert_array_equal(target_mask(image * 2.0**-60, 50, 50, **BASE), expected)
    there = target_mask(image.T, 20, 100, **BASE)
    np.testing.assert_array_equal(there.T, target_mask(image, 100, 20, **BASE))


def test_nothing_detected_masks_nothing():
    assert not target_mask(with_noise(0 * Y), 50, 50, **BASE, n_sigma=8).any()


@settings(max_examples=10)
@given(chunks_for(SHAPE))
def test_same_for_every_chunking(chunks):
    lazy = da.from_array(APART, chunks=chunks, name=False)
    found = target_mask(lazy, 50, 50, **BASE)
    assert isinstance(found, da.Array)
    assert found.chunks == chunks
    np.testing.assert_array_equal(found, target_mask(APART, 50, 50, **BASE))


def test_kinds_and_dtypes():
    image = np.round(APART * 1000)
    expected = target_mask(image, 50, 50, **BASE)
    assert type(expected) is np.ndarray
    for dtype in (">f4", ">i2", ">i4"):
        np.testing.assert_array_equal(target_mask(image.astype(dtype), 50, 50, **BASE), expected)
    named = xr.DataArray(image, dims=("y", "x"), coords={"y": np.arange(101.0)})
    found = target_mask(named, 50, 50, **BASE)
    assert isinstance(found.data, da.Array)
    np.testing.assert_array_equal(found["y"], named["y"])
    np.testing.assert_array_equal(found, expected)


def test_errors():
    for wrong in (
        {"shape": "boxes"},
        {"source_diameter": -1},
        {"source_diameter": np.nan},
        {"nearby_grow": -1},
        {"addgrow": -1},
        {"magnification": 0},
        {"fwhm": 0},
        {"n_pixels": 0},
        {"connectivity": 3},
        {"max_grow_size": -1},
        {"sky_level": np.nan},
        {"deblend": True, "contrast": 2},
        {"deblend": True, "n_levels": 0},
    ):
        with pytest.raises(ParameterError, match=list(wrong)[-1]):
            target_mask(APART, 50, 50, **{**BASE, **wrong})
    with pytest.raises(ParameterError, match="target is at"):
        target_mask(APART, np.nan, 50, **BASE)
    with pytest.raises(NoGoodPixelsError):
        target_mask(APART, 50, 50, **BASE, mask=np.ones(SHAPE, bool))
    for name in ("mask", "always"):
        with pytest.raises(ImageShapeError, match=name):
            target_mask(APART, 50, 50, **BASE, **{name: np.zeros((3, 3))})
