"""Step 2: every parameter of ``generate_cutmask``."""


import dask.array as da
import numpy as np
import pytest
from fields import SCALE, gaussian, two_galaxies
from target_field import DEC, RA, SHAPE

from galprep_dask import images as IM
from galprep_dask.errors import (
    ImageShapeError,
    ParameterError,
)


def count(img, **changed):
    return int(img.generate_cutmask(**({"psfFWHM": 1.5} | changed)).sum())


def test_neighbour_is_masked_and_target_is_not(cut):
    mask = cut.generate_cutmask(1.5)
    x0, _, y0, _ = cut.cut_position
    assert isinstance(mask, np.ndarray)
    assert mask.dtype == bool
    assert mask.shape == cut.cut_image.shape
    target, neighbour = (120 - x0, 100 - y0), (150 - x0, 100 - y0)
    assert not mask[target[1] - 5 : target[1] + 6, target[0] - 5 : target[0] + 6].any()
    assert mask[neighbour[1] - 5 : neighbour[1] + 6, neighbour[0] - 5 : neighbour[0] + 2].all()


def test_data_may_be_passed_or_be_that_of_img_cut(cut):
    np.testing.assert_array_equal(cut.generate_cutmask(1.5), cut.generate_cutmask(1.5, data=cut.cut_image))
    # In data of another shape the target is in the middle.
    other, (x, y), (nx, _) = two_galaxies((81, 101), separation=30)
    mask = cut.generate_cutmask(1.5, data=da.from_array(other))
    assert not mask[int(y), int(x)]
    assert mask[int(y), int(nx)]


def test_sdmask_is_masked_in_any_case(cut):
    sdmask = np.zeros(cut.cut_image.shape, bool)
    sdmask[30, 30] = sdmask[2, 3] = True
    mask = cut.generate_cutmask(1.5, sdmask=sdmask)
    assert mask[sdmask].all()
    np.testing.assert_array_equal(mask & ~sdmask, cut.generate_cutmask(1.5) & ~sdmask)
    full = np.zeros(SHAPE, bool)
    x0, x1, y0, y1 = cut.cut_position
    full[y0:y1, x0:x1] = sdmask
    np.testing.assert_array_equal(cut.generate_cutmask(1.5, sdmask=full), mask)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"nsigma": 30.0, "max_grow_size": 0}, {"nsigma": 3.0, "max_grow_size": 0}),
        ({"npixels": 5000}, {"npixels": 5}),
        ({"max_grow_size": 0}, {"max_grow_size": 10}),
        ({"sky_level": 20.0}, {"sky_level": 0.0}),
        ({"addgrow": 0}, {"addgrow": 3}),
        ({"growmethod": False, "magnification": 1.0}, {"growmethod": False, "magnification": 4.0}),
        ({"left_source": True}, {"left_source": False}),
        ({"psfFWHM": 0.8, "max_grow_size": 0}, {"psfFWHM": 2.5, "max_grow_size": 0}),
    ],
)
def test_parameter_widens_the_mask(cut, less, more):
    assert count(cut, **less) < count(cut, **more)


def test_growth_and_ellipses_differ(cut):
    grown, ellipses = cut.generate_cutmask(1.5), cut.generate_cutmask(1.5, growmethod=False)
    assert (grown != ellipses).any()
    assert grown.any()
    assert ellipses.any()


@pytest.fixture
def blend():
    """A target and a neighbour that touch."""
    shape = (81, 81)
    pixels = np.random.default_rng(1).normal(0, 1.0, shape) + gaussian(shape, 40, 40, 30000, 4.0)
    pixels = (pixels + gaussian(shape, 54, 40, 20000, 3.0)).astype("f4")
    img = IM.image(pixels, pixel_scales=SCALE)
    img.img_cut(0, 0, 20.0, referpix=(40, 40))
    return img


def test_deblend_masks_a_neighbour_that_touches(blend):
    assert not blend.generate_cutmask(1.5).any()
    mask = blend.generate_cutmask(1.5, deblend=True)
    assert mask[40, 56]
    assert not mask[40, 38]


def test_nlevels_and_contrast_reach_the_deblending(blend):
    assert blend.generate_cutmask(1.5, deblend=True, contrast=0.001).any()
    assert not blend.generate_cutmask(1.5, deblend=True, contrast=0.9).any()
    assert not blend.generate_cutmask(1.5, deblend=True, nlevels=1).any()


def test_source_dia_takes_every_segment_within_for_the_target(cut):
    assert count(cut, source_dia=0.5) > 0
    assert count(cut, source_dia=2 * 26 * SCALE) == 0  # the neighbour's edge is 26 px away at most


def test_nearbygrow_widens_neighbours_that_touch_the_target_only(blend):
    without = blend.generate_cutmask(1.5, deblend=True, max_grow_size=5)
    wider = blend.generate_cutmask(1.5, deblend=True, max_grow_size=5, nearbygrow=6)
    assert wider.sum() > without.sum()
    assert (wider | without == wider).all()
    assert not wider[40, 38]


def test_nearbygrow_leaves_neighbours_far_off_alone(cut):
    np.testing.assert_array_equal(
        cut.generate_cutmask(1.5, max_grow_size=2, nearbygrow=9), cut.generate_cutmask(1.5, max_grow_size=2)
    )


def test_cutmask_needs_a_cutout(flat):
    with pytest.raises(ParameterError, match="call img_cut before generate_cutmask"):
        IM.image(flat).generate_cutmask(1.5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("psfFWHM", [0, -1, np.nan, None, "2"]),
        ("nsigma", [np.nan, -1]),
        ("npixels", [0, 2.5]),
        ("magnification", [0, np.inf]),
        ("nlevels", [0, 1.5]),
        ("contrast", [-0.1, 1.1]),
        ("sky_level", [np.nan, np.inf]),
        ("source_dia", [-1, np.nan]),
        ("max_grow_size", [-1, 1.5]),
        ("nearbygrow", [-1, np.nan]),
        ("addgrow", [-1, np.nan]),
    ],
)
def test_values_that_make_no_sense(blend, name, values):
    ours = {"psfFWHM": "psfFWHM", "npixels": "n_pixels", "nlevels": "n_levels",
            "source_dia": "source_diameter", "nearbygrow": "nearby_grow"}.get(name, name)  # fmt: skip
    usual = {"psfFWHM": 1.5, "deblend": True, "growmethod": name != "magnification"}
    for value in values:
        with pytest.raises(ParameterError, match=f"{ours}="):
            blend.generate_cutmask(**(usual | {name: value}))


def test_masks_and_data_of_other_shapes(cut):
    with pytest.raises(ImageShapeError, match=r"sdmask has shape \(3, 3\), but the cutout has \(61, 61\)"):
        cut.generate_cutmask(1.5, sdmask=np.zeros((3, 3), bool))
    with pytest.raises(ImageShapeError, match="expected a two-dimensional cutout"):
        cut.generate_cutmask(1.5, data=np.zeros(5))


def test_source_dia_is_in_arcsec(flat):
    """The same circle in pixels is half as many arcsec wide where a pixel is half as large."""
    masks = []
    for scale in (SCALE, SCALE / 2):
        img = IM.image(flat, pixel_scales=scale)
        img.img_cut(RA, DEC, 30 * scale)
        masks.append([img.generate_cutmask(3 * scale, source_dia=px * scale).sum() for px in (1, 2 * 26)])
    assert masks[0] == masks[1]
    assert masks[0][0] > masks[0][1] == 0
