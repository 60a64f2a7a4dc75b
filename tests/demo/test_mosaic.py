"""The simulated mosaic: the same pixels for every chunking, and a truth that is true."""

import pickle

import dask
import numpy as np
import pytest
from astropy.modeling.models import Moffat2D, Sersic2D
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from galprep_dask.demo import _kernels
from galprep_dask.demo.mosaic import _ROW, _rows, simulate_mosaic
from galprep_dask.errors import ParameterError
from galprep_dask.image import image_header, pixel_scale

SHAPE = (300, 330)  # four tiles of noise
FEW = {"n_galaxies": 6, "n_stars": 8, "seed": 5}


def pixels(shape=SHAPE, **kwargs):
    return simulate_mosaic(shape, **kwargs)[0]["data"].data.compute(scheduler="sync")


@pytest.fixture(scope="module")
def whole():
    return pixels(chunks=-1, **FEW)


@pytest.fixture(scope="module")
def mosaic():
    image, truth = simulate_mosaic(seed=2)
    with dask.config.set(scheduler="threads"):
        return image["data"].values.astype(float), image, truth


def aperture(image, x, y, radius):
    """Sum and number of the pixels with centres within ``radius`` of (x, y)."""
    y_at, x_at = np.indices(image.shape)
    inside = np.hypot(x_at - x, y_at - y) <= radius
    return image[inside].sum(), inside.sum()


@st.composite
def ragged(draw, side):
    cuts = draw(st.lists(st.integers(1, side - 1), max_size=3, unique=True).map(sorted))
    return tuple(np.diff([0, *cuts, side]).tolist())


# The same image, whatever the chunks -----------------------------------------------------------------------


@settings(max_examples=12, deadline=None, derandomize=True)
@given(chunks=st.tuples(ragged(SHAPE[0]), ragged(SHAPE[1])))
def test_pixels_are_the_same_to_the_bit_for_ragged_chunks(whole, chunks):
    np.testing.assert_array_equal(pixels(chunks=chunks, **FEW).view(np.uint32), whole.view(np.uint32))


@pytest.mark.parametrize("chunks", [(300, 1), (1, 330), (300, (1, 256, 73)), 64])
def test_pixels_are_the_same_to_the_bit_for_thin_chunks(chunks):
    few = {"n_galaxies": 1, "n_stars": 1, "seed": 5}
    if chunks in {(300, 1), (1, 330)}:
        part = np.s_[120:150, 60:90]
        image = simulate_mosaic(SHAPE, chunks=chunks, **few)[0]["data"].data[part]
        np.testing.assert_array_equal(image.compute(), pixels(chunks=-1, **few)[part])
    else:
        np.testing.assert_array_equal(pixels(chunks=chunks, **few), pixels(chunks=-1, **few))


def test_truth_planes_are_the_same_to_the_bit_for_every_chunking():
    _, truth = simulate_mosaic(SHAPE, **FEW)
    for plane in (truth.sky, truth.light, truth.bad):
        np.testing.assert_array_equal(plane((77, 131)).compute(), plane(-1).compute())


def test_seed_decides_everything(whole):
    np.testing.assert_array_equal(pixels(**FEW), whole)
    other = pixels(**{**FEW, "seed": 6})
    assert np.mean(other == whole) < 0.01
    assert simulate_mosaic(seed=1)[1].sources["x"][0] != simulate_mosaic(seed=2)[1].sources["x"][0]


def test_noise_does_not_repeat_between_tiles():
    image, truth = simulate_mosaic((512, 512), n_galaxies=0, n_stars=0, defects=False)
    noise = (image["data"].data - truth.sky()).compute()
    tiles = [noise[y : y + 256, x : x + 256].ravel() for y in (0, 256) for x in (0, 256)]
    correlation = np.corrcoef(tiles)[np.triu_indices(4, 1)]
    assert np.abs(correlation).max() < 5 / 256  # five standard deviations


# The graph -------------------------------------------------------------------------------------------------


def forbid_computing(*args, **kwargs):
    raise AssertionError("computed")


@pytest.mark.parametrize("chunks", [2048, 512])
def test_large_mosaic_is_lazy_and_its_graph_small(chunks):
    with dask.config.set(scheduler=forbid_computing):
        image, truth = simulate_mosaic((16384, 16384), chunks=chunks, seed=3)
        data = image["data"].data
        truth.light(chunks), truth.sky(chunks), truth.bad(chunks)
    assert len(truth.sources) > 20000
    tasks = dict(data.__dask_graph__())
    assert len(tasks) / data.npartitions <= 3
    # 80 bytes for each block that a source touches, and the little that every block needs.
    assert len(pickle.dumps(data.dask)) < 80 * 2 * len(truth.sources) + 1000 * data.npartitions
    # Each task on its own, as a cluster sends it, carries its own sources only.
    per_block = 80 * 2 * len(truth.sources) / data.npartitions
    assert max(len(pickle.dumps(task)) for task in tasks.values()) < 5000 + 2 * per_block
    assert data.blocks[1, 2][:200, :200].compute().shape == (200, 200)


def test_image_survives_pickling(whole):
    image, truth = pickle.loads(pickle.dumps(simulate_mosaic(SHAPE, chunks=200, **FEW)))
    np.testing.assert_array_equal(image["data"].values, whole)
    assert truth.shape == SHAPE


# Truth -----------------------------------------------------------------------------------------------------


def test_metadata(mosaic):
    _, image, truth = mosaic
    header = image_header(image)
    assert image["data"].dtype == np.float32
    assert image.attrs["unit"] == header["BUNIT"] == "adu/s"
    assert image.attrs["gain"] == header["GAIN"] == 2.5
    assert image.attrs["exptime"] == header["EXPTIME"] == 300.0
    assert image.attrs["zeropoint"] == header["MAGZERO"]
    assert {"DATE-OBS", "OBJECT", "SATURATE"} <= set(header)
    assert pixel_scale(header) == pytest.approx(0.3, rel=1e-9)
    assert header["SATURATE"] == truth.saturate == image["data"].values[truth.bleed.y0 + 1, truth.bleed.x0]


def test_sky_positions_are_those_of_the_header(mosaic):
    _, image, truth = mosaic
    table = truth.sources
    x, y = WCS(image_header(image)).all_world2pix(table["ra"], table["dec"], 0)
    np.testing.assert_allclose(x, table["x"], atol=1e-6)
    np.testing.assert_allclose(y, table["y"], atol=1e-6)


def test_position_angle_is_from_north_to_east(mosaic):
    _, image, truth = mosaic
    wcs = WCS(image_header(image))
    for row in truth.targets:
        angle = np.radians(row["orientation"])
        here = wcs.pixel_to_world(row["x"], row["y"])
        there = wcs.pixel_to_world(row["x"] + 5 * np.cos(angle), row["y"] + 5 * np.sin(angle))
        difference = (here.position_angle(there).deg - row["position_angle"] + 90) % 180 - 90
        assert abs(difference) < 0.05


@pytest.mark.parametrize("seed", range(8))
def test_targets_are_clear_of_everything(seed):
    _, truth = simulate_mosaic(seed=seed)
    targets, (ny, nx) = truth.targets, truth.shape
    assert len(targets) == 4
    assert set(targets["kind"]) == {"galaxy"}
    x, y = np.array(targets["x"]), np.array(targets["y"])
    assert min(x.min(), y.min(), (nx - 1 - x).min(), (ny - 1 - y).min()) >= 120
    assert np.hypot(*(np.subtract.outer(at, at)[np.triu_indices(4, 1)] for at in (x, y))).min() >= 120
    assert np.maximum(truth.gap.x0 - x, x - truth.gap.x1 + 1).min() >= 120
    assert np.abs(_kernels.distance_from(truth.trail, x, y)).min() >= 120
    others = truth.sources[~truth.sources["target"]]
    assert min(np.hypot(others["x"] - row["x"], others["y"] - row["y"]).min() for row in targets) > 45


@pytest.mark.parametrize("n", [1.0, 2.5])
def test_galaxy_stamp_is_the_convolved_profile(n):
    truth = simulate_mosaic()[1]
    row = np.zeros(1, _ROW)[0]
    row["x"], row["y"], row["flux"], row["n"], row["r_eff"] = 100.3, 50.8, 1.0, n, 4.0
    row["axis_ratio"], row["orientation"], row["half"] = 0.6, 25.0, 60
    stamp = _kernels._galaxy_stamp(row, truth.alpha)

    fine, half = 11, 60  # an odd number of cells, so that a cell's middle is the pixel's
    at = (np.arange((2 * half + 1) * fine) - (2 * half + 1) * fine // 2) / fine
    profile = Sersic2D(1, 4.0, n, 0.3, -0.2, ellip=0.4, theta=np.radians(25))(*np.meshgrid(at, at))
    kernel = Moffat2D(1, 0, 0, truth.alpha, 3.5)(*np.meshgrid(at, at))
    expected = fftconvolve(profile, kernel / kernel.sum(), mode="same")
    expected = expected.reshape(2 * half + 1, fine, 2 * half + 1, fine).sum(axis=(1, 3))
    core = np.s_[half - 15 : half + 16, half - 15 : half + 16]
    # Amplitudes are compared by the light in 31 x 31 px; that they are right is for the next test.
    expected, stamp = (image[core] / image[core].sum() for image in (expected, stamp))
    np.testing.assert_allclose(stamp, expected, rtol=2e-3, atol=1e-4 * stamp.max())


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("xy", [(40.0, 40.0), (40.5, 40.5), (40.13, 39.77)])
def test_galaxy_flux_is_that_of_the_table(n, xy):
    rows = np.zeros(1, _ROW)
    rows["x"], rows["y"] = xy
    rows["flux"], rows["n"], rows["r_eff"], rows["axis_ratio"], rows["orientation"] = 7.0, n, 2.0, 0.5, 70.0
    alpha = simulate_mosaic()[1].alpha
    rows["half"] = np.ceil(_kernels.outer_radius(2.0, n) + 4 * alpha)
    stamp = _kernels._galaxy_stamp(rows[0], alpha)
    assert 0.994 < stamp.sum() / 7.0 < 1.0
    # Centred: odd moments about the position vanish, weighted so that the ends of the wings count little.
    x, y = (np.arange(len(stamp)) - rows["half"] - (at - np.floor(at + 0.5)) for at in xy)
    weighted = stamp * np.exp(-(x**2 + y[:, None] ** 2) / 50)
    for moment in ((weighted * x).sum(), (weighted * y[:, None]).sum()):
        assert abs(moment / weighted.sum()) < 1e-3


def test_star_stamp_is_the_integrated_moffat_profile():
    alpha = simulate_mosaic()[1].alpha
    row = np.zeros(1, _ROW)[0]
    row["x"], row["y"], row["flux"], row["half"] = 10.3, 20.6, 5.0, 40
    stamp = _kernels._star_stamp(row, alpha)
    at = (np.arange(81 * 21) - 81 * 21 // 2) / 21
    u = 1 + ((at[:, None] + 0.4) ** 2 + (at - 0.3) ** 2) / alpha**2
    expected = 5 * 2.5 / (np.pi * alpha**2) * u**-3.5 / 21**2
    expected = expected.reshape(81, 21, 81, 21).sum(axis=(1, 3))
    np.testing.assert_allclose(stamp, expected, rtol=1e-3)
    assert stamp.sum() == pytest.approx(5.0, rel=1e-4)


def test_fluxes_and_centroids_in_the_image(mosaic):
    data, _, truth = mosaic
    table, bad = truth.sources, truth.bad().compute()
    light, sky = truth.light().compute(), truth.sky().compute()
    above, radius, pulls, shifts = data - sky, 20, [], []
    for k, row in enumerate(table):
        others = np.delete(np.arange(len(table)), k)
        nearest = np.hypot(table["x"][others] - row["x"], table["y"][others] - row["y"]).min()
        y, x = round(row["y"]), round(row["x"])
        window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        isolated = nearest > 45 and light[window].shape == (41, 41) and not bad[window].any()
        on_trail = abs(_kernels.distance_from(truth.trail, row["x"], row["y"])) < 35
        if row["kind"] != "star" or row["saturated"] or on_trail or not isolated:
            continue
        total, n = aperture(above[window], row["x"] - x + radius, row["y"] - y + radius, radius)
        photons = row["flux"] / (truth.gain * truth.exptime)
        pulls.append((total - row["flux"]) / np.sqrt(photons + n * truth.sky_std**2))
        y_at, x_at = np.indices((41, 41)) - radius
        weight = light[window]
        variance = truth.sky_std**2 + weight / (truth.gain * truth.exptime)
        norm = (weight * light[window]).sum()
        for centre, at in ((row["x"] - x, x_at), (row["y"] - y, y_at)):
            # Weighted by the noiseless star, so that the sky's noise counts little.
            moment = (weight * (at - centre) * (above[window] - light[window])).sum() / norm
            error = np.sqrt((weight**2 * (at - centre) ** 2 * variance).sum()) / norm
            shifts.append(moment / error)
    assert len(pulls) >= 10
    for values in (np.array(pulls), np.array(shifts)):
        assert abs(values.mean()) < 4 / np.sqrt(len(values))
        assert abs(values.std() - 1) < 4 / np.sqrt(2 * len(values))


def test_targets_have_their_light(mosaic):
    data, _, truth = mosaic
    _, alone = simulate_mosaic(seed=2, n_stars=0, n_galaxies=4, defects=False)
    light = alone.light().compute()
    for row in alone.targets:
        total, _ = aperture(light, row["x"], row["y"], 130)
        assert total == pytest.approx(row["flux"], rel=0.01)
        assert total < row["flux"]
    # And the image has it too: in a mosaic with neighbours, whatever the model does not explain is noise.
    residual = data - truth.sky().compute() - truth.light().compute()
    for row in truth.targets:
        total, n = aperture(np.nan_to_num(residual), row["x"], row["y"], 40)
        photons = row["flux"] / (truth.gain * truth.exptime)
        assert abs(total) < 4.5 * np.sqrt(photons + n * truth.sky_std**2)


def test_noise_is_that_of_sky_and_photons(mosaic):
    data, _, truth = mosaic
    light = truth.light().compute()
    good = np.isfinite(data) & (data < truth.saturate)
    good[truth.bleed.y0 : truth.bleed.y1, truth.bleed.x0 : truth.bleed.x1] = False
    residual = data - truth.sky().compute() - light
    empty = residual[good & (light < 1e-3 * truth.sky_std)]
    assert empty.size > 1e6
    assert empty.std() == pytest.approx(truth.sky_std, rel=4 / np.sqrt(2 * empty.size) + 1e-3)
    assert np.median(empty) == pytest.approx(0, abs=5 * truth.sky_std / np.sqrt(empty.size))  # the sky
    bright = good & (light > 5 * truth.sky_std)
    pull = (residual / np.sqrt(truth.sky_std**2 + light / (truth.gain * truth.exptime)))[bright]
    assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * pull.size))


def test_sky_is_a_cubic_about_its_level(mosaic):
    _, _, truth = mosaic
    ny, nx = truth.shape
    sky = truth.sky().compute()
    v, u = np.linspace(-1, 1, ny), np.linspace(-1, 1, nx)
    expected = np.polynomial.polynomial.polygrid2d(v, u, truth.sky_coefficients)
    np.testing.assert_allclose(sky, expected, rtol=1e-12)
    assert np.array(truth.sky_coefficients)[np.add.outer(range(4), range(4)) > 3].max() == 0
    assert np.ptp(sky) > 3 * truth.sky_std


def test_nan_only_where_the_truth_says(mosaic):
    data, _, truth = mosaic
    bad = truth.bad().compute()
    np.testing.assert_array_equal(np.isnan(data), bad)
    assert bad[truth.gap.y0 : truth.gap.y1, truth.gap.x0 : truth.gap.x1].all()
    bad[truth.gap.y0 : truth.gap.y1, truth.gap.x0 : truth.gap.x1] = False
    assert 10 < bad.sum() < 100


def test_saturated_star_bleeds_and_trail_crosses(mosaic):
    data, _, truth = mosaic
    star = truth.sources[truth.sources["saturated"]]
    assert len(star) == 1
    box = truth.bleed
    column = data[box.y0 : box.y1, box.x0 : box.x1]
    assert (column[np.isfinite(column)] == truth.saturate).all()
    assert np.nanmax(data) == truth.saturate
    assert box.x0 <= star["x"][0] <= box.x1 - 1
    assert box.y0 < star["y"][0] < box.y1
    nx = truth.shape[1]
    y = truth.trail.y + np.arange(nx) * np.tan(np.radians(truth.trail.angle))
    on = (data - truth.sky().compute())[np.round(y).astype(int), np.arange(nx)]
    assert np.nanmedian(on) == pytest.approx(truth.trail.peak, rel=0.05)


def test_without_defects_every_pixel_is_good():
    image, truth = simulate_mosaic(SHAPE, defects=False, **FEW)
    assert np.isfinite(image["data"].values).all()
    assert not truth.bad().compute().any()
    assert (truth.trail, truth.bleed, truth.gap, truth.saturate) == (None,) * 4
    assert "SATURATE" not in image_header(image)


@pytest.mark.parametrize(("n_galaxies", "n_stars"), [(0, 0), (2, 0), (0, 1), (5, 3)])
def test_any_number_of_sources(n_galaxies, n_stars):
    image, truth = simulate_mosaic((64, 90), n_galaxies=n_galaxies, n_stars=n_stars)
    assert len(truth.sources) == n_galaxies + n_stars
    assert len(truth.targets) == min(4, n_galaxies)
    assert np.isfinite(image["data"].values).sum() > 5000


def test_rows_follow_the_table():
    _, truth = simulate_mosaic(SHAPE, **FEW)
    rows = _rows(truth.sources, truth)
    np.testing.assert_array_equal(rows["flux"], truth.sources["flux"])
    assert rows["galaxy"].sum() == FEW["n_galaxies"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (63, 100)}, {"shape": (100.0, 100)}, {"shape": (100, 100, 3)}, {"seed": -1}, {"seed": 1.5},
        {"n_stars": -1}, {"n_galaxies": True}, {"fwhm": 0.2}, {"gain": 0.0}, {"exptime": np.nan},
        {"sky_level": -1.0}, {"pixel_scale": np.inf},
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_name(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        simulate_mosaic(**{"shape": (100, 120), **wrong})
