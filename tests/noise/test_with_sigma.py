"""An image with its sigma plane, and ``ds.galprep`` for the functions of this room."""

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from fields import tan_header, two_galaxies

from galprep_dask import make_image, noise, open_image, write_image
from galprep_dask.errors import MissingExptimeError, MissingGainError, NoGoodPixelsError, ParameterError, SigmaWarning
from galprep_dask.image import with_header

SHAPE = (301, 341)
KEYWORDS = {"SIGCHK", "SIGCHKLO", "SIGCHKHI", "SIGCHKN"}


@pytest.fixture
def field():
    """An image of noise 5 with two galaxies, where they are, and their light."""
    light, _, _ = two_galaxies(SHAPE, noise=0.0)
    data = light + np.random.default_rng(1).normal(0, 5.0, SHAPE)
    data[3, 4] = np.nan
    image = make_image(data, gain=2.0, exptime=100.0, header=tan_header(SHAPE), unit="adu / s", chunks=(100, 120))
    return image, light > 0.01, light


def with_map(image, **planes):
    return image.assign({name: (("y", "x"), plane) for name, plane in planes.items()})


def test_measured_checked_and_written_down(field):
    image, masked, light = field
    prepared = noise.with_sigma(image, masked)
    header = prepared.galprep.header
    assert set(header) >= KEYWORDS
    assert header["SIGCHK"] == pytest.approx(1.0, abs=0.01)
    assert header["SIGSKY"] == pytest.approx(5.0, rel=0.01)
    assert not {"SIGSCL", "SIGCOR"} & set(header)
    assert not KEYWORDS & set(image.galprep.header)
    assert np.argwhere(prepared["mask"].values).tolist() == [[3, 4]]
    expected = noise.sigma_image(
        image["data"].values, prepared["mask"].values, sky_std=header["SIGSKY"], gain=2.0, exptime=100.0
    )
    np.testing.assert_array_equal(prepared["sigma"].values, expected)
    np.testing.assert_array_equal(prepared["data"], image["data"])
    assert prepared["sigma"].chunks == image["data"].chunks
    again = image.galprep.with_sigma(masked)
    assert again.attrs == prepared.attrs
    # In place of sources that are masked, clipping at 3 has to do.
    assert noise.with_sigma(image).galprep.header["SIGSKY"] == pytest.approx(5.0, rel=0.02)


def test_is_read_back_from_a_file(field, tmp_path):
    image, masked, _ = field
    prepared = image.galprep.with_sigma(masked)
    write_image(prepared, tmp_path / "image.fits")
    assert fits.getheader(tmp_path / "image.fits")["SIGCHK"] == prepared.galprep.header["SIGCHK"]
    found = open_image(tmp_path / "image.fits")
    np.testing.assert_allclose(found["sigma"], prepared["sigma"], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 37.0])
def test_relative_weights_are_put_right_and_sources_keep_their_photon_noise(field, scale):
    image, masked, light = field
    slope = np.linspace(1, 3, SHAPE[1]) * np.ones((SHAPE[0], 1))
    data = light + (image["data"].values - light) / np.sqrt(slope)
    relative = with_map(image.assign(data=(("y", "x"), data)), weight=scale * slope)
    prepared = noise.with_sigma(relative, masked, rescale=True)
    header = prepared.galprep.header
    assert header["SIGSCL"] == pytest.approx(5.0 * np.sqrt(scale), rel=0.01)
    assert header["SIGCHK"] == pytest.approx(1.0, abs=0.01)
    assert header["SIGCHKLO"] > 0.97
    assert header["SIGCHKHI"] < 1.03
    expected = np.sqrt(np.maximum(data, 0) / 200 + 25 / slope)
    good = np.isfinite(data)
    np.testing.assert_allclose(prepared["sigma"].values[good], expected[good], rtol=0.01)
    if scale != 1.0:
        with pytest.warns(SigmaWarning, match="off by a factor"):
            noise.with_sigma(with_map(relative, weight=1e-6 * slope), masked)


def test_rescaling_is_recorded_anew_where_it_was_done_before(field):
    image, masked, _ = field
    once = noise.with_sigma(with_map(image, weight=np.ones(SHAPE)), masked, rescale=True)
    assert {"SIGSCL"} <= set(once.galprep.header)
    twice = noise.with_sigma(once.drop_vars("weight"), masked, correlation=1.5)
    assert "SIGSCL" not in twice.galprep.header
    assert twice.galprep.header["SIGCOR"] == 1.5


def test_correlated_noise_makes_sigma_larger_without_a_warning(field):
    image, masked, light = field
    plain = noise.with_sigma(image, masked)["sigma"].values
    larger = noise.with_sigma(image, masked, correlation=2.0)
    sky = light < 1e-6
    sky[3, 4] = False
    photons = np.maximum(image["data"].values, 0) / 200
    np.testing.assert_allclose(larger["sigma"].values[sky] ** 2, (4 * plain**2 - 3 * photons)[sky], rtol=1e-5)
    assert larger.galprep.header["SIGCHK"] == pytest.approx(0.5, abs=0.01)
    rescaled = noise.with_sigma(with_map(image, weight=np.ones(SHAPE)), masked, correlation=2.0, rescale=True)
    assert rescaled.galprep.header["SIGSCL"] == pytest.approx(5.0, rel=0.01)
    assert rescaled.galprep.header["SIGCHK"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["weight", "rms", "exptime"])
def test_pixels_of_which_a_map_tells_nothing_are_masked_with_a_finite_sigma(field, name):
    image, masked, _ = field
    plane = np.full(SHAPE, {"weight": 0.04, "rms": 5.0, "exptime": 100.0}[name])
    plane[7, 3:8] = [np.nan, 0.0, -1.0, np.inf, -np.inf]
    plane.flags.writeable = False
    prepared = noise.with_sigma(image, masked, **{name: plane})
    expected = np.zeros(SHAPE, bool)
    expected[3, 4] = expected[7, 3:8] = True
    np.testing.assert_array_equal(prepared["mask"], expected)
    sigma = prepared["sigma"].values
    assert (np.isfinite(sigma) & (sigma > 0)).all()
    np.testing.assert_allclose(sigma[expected], 5.0, rtol=0.01)
    assert prepared.galprep.header["SIGCHK"] == pytest.approx(1.0, abs=0.01)


def test_exposure_map_with_a_gradient_is_calibrated_in_boxes(field):
    image, masked, light = field
    exposure = np.linspace(70, 140, SHAPE[1]) * np.ones((SHAPE[0], 1))
    data = light + (image["data"].values - light) * np.sqrt(100 / exposure)
    prepared = noise.with_sigma(image.assign(data=(("y", "x"), data)), masked, exptime=exposure, box_size=100)
    header = prepared.galprep.header
    assert header["SIGCHK"] == pytest.approx(1.0, abs=0.01)
    assert header["SIGCHKLO"] > 0.97
    assert header["SIGCHKHI"] < 1.03


def test_weight_and_mask_of_the_image_are_used_by_the_accessor(field):
    image, masked, _ = field
    weight = np.full(SHAPE, 0.04)
    mask = np.zeros(SHAPE, bool)
    mask[10:20] = True
    mapped = with_map(image, weight=weight, mask=mask)
    expected = noise.sigma_image(mapped["data"], mask, weight=weight, gain=2.0, exptime=100.0)
    np.testing.assert_array_equal(mapped.galprep.sigma_image(), expected)
    rms = noise.sigma_image(mapped["data"], mask, rms=weight, gain=2.0, exptime=100.0)
    np.testing.assert_array_equal(mapped.galprep.sigma_image(rms=weight), rms)
    with pytest.raises(ParameterError, match="sky_std=None"):
        image.galprep.sigma_image()


def test_accessor_checks_and_measures(field):
    image, masked, _ = field
    prepared = image.galprep.with_sigma(masked)
    assert prepared.galprep.check_sigma(masked).ratio == prepared.galprep.header["SIGCHK"]
    other = prepared.galprep.check_sigma(masked, sigma=np.full(SHAPE, 4.5))
    assert other.ratio == pytest.approx(5 / 4.5, abs=0.02)
    found = prepared.galprep.correlation_factor(masked, block_size=8)
    assert found == noise.correlation_factor(image["data"], masked, block_size=8)
    assert found == pytest.approx(1.0, abs=0.1)
    with pytest.raises(ParameterError, match="the image has no sigma plane. Make one by with_sigma"):
        image.galprep.check_sigma()


def test_what_is_missing_is_named(field):
    image, masked, _ = field
    without = image.copy()
    without.attrs = {}
    with pytest.raises(MissingGainError, match=r"no gain for the image: looked for GAIN.*Pass gain="):
        without.galprep.with_sigma(masked, exptime=1.0)
    with pytest.raises(MissingExptimeError, match="no exptime for the image"):
        without.galprep.with_sigma(masked, gain=1.0)
    assert without.galprep.with_sigma(masked, fac1=0).galprep.header["SIGCHK"] == pytest.approx(1.0, abs=0.01)
    for wrong in (0, -1, np.nan):
        with pytest.raises(ParameterError, match="correlation"):
            noise.with_sigma(image, masked, correlation=wrong)
        with pytest.raises(ParameterError, match="gain="):
            noise.with_sigma(image, masked, gain=wrong)
    with pytest.raises(NoGoodPixelsError):
        noise.with_sigma(image, np.ones(SHAPE, bool))


@pytest.mark.parametrize(
    "how", [{}, {"rescale": True, "correlation": 1.3}, {"sky_std": 4.5, "fac1": 0, "box_size": 77}]
)
def test_written_in_one_pass_as_in_two(field, tmp_path, how):
    image, masked, _ = field
    image = image.assign(segmentation=(("y", "x"), masked.astype(np.int32)))
    header = image.galprep.header
    header["SIGSCL"] = 7.0  # of a sigma image made before
    image = with_header(image, header)
    prepared = noise.with_sigma(image, masked, **how)
    write_image(prepared, tmp_path / "two.fits", history=["a line"])
    for chunks in ((100, 120), (37, 341), (301, 13)):
        check = image.chunk(dict(zip("yx", chunks, strict=True))).galprep.write_with_sigma(
            tmp_path / "one.fits", masked, history=["a line"], overwrite=True, **how
        )  # fmt: skip
        assert (tmp_path / "one.fits").read_bytes() == (tmp_path / "two.fits").read_bytes()
    assert check.ratio == prepared.galprep.header["SIGCHK"]
    assert (check.scale is not None) == ("rescale" in how)


def test_what_cannot_be_checked_is_not_written(field, tmp_path):
    image, masked, _ = field
    with pytest.raises(NoGoodPixelsError, match="compare sigma"):
        noise.write_with_sigma(image, tmp_path / "image.fits", np.ones(SHAPE, bool), sky_std=5.0)
    with pytest.raises(ParameterError, match="expected a FITS file"):
        noise.write_with_sigma(image, tmp_path / "image.zarr", masked)
    with pytest.warns(SigmaWarning, match="off by a factor"):
        noise.write_with_sigma(image, tmp_path / "warned.fits", masked, sky_std=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["warned.fits"]


def test_few_tasks_a_chunk_for_image_planes_and_check_together(tmp_path):
    counted = []

    def count_and_run(graph, keys, **kwargs):
        graph = dict(graph.__dask_graph__())
        counted.append(len(graph))
        return dask.get(graph, keys, **kwargs)

    for side in (64, 256):
        data = da.from_array(np.random.default_rng(0).normal(0, 5.0, (side, side)), chunks=8, name=False)
        image = make_image(data, gain=2.0, exptime=100.0).assign(segmentation=(("y", "x"), (data > 9).astype("i4")))
        with dask.config.set(scheduler=count_and_run):
            noise.write_with_sigma(image, tmp_path / f"{side}.fits", data > 9, sky_std=5.0, box_size=20)
    few, many = counted[0] / 64, counted[1] / 1024
    assert max(few, many) <= 8
    assert abs(few - many) < 0.5
