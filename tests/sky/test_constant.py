import numpy as np
import pytest
from astropy.io import fits

from galprep_dask.errors import NoGoodPixelsError
from galprep_dask.sky import ConstantSky, fit_mean_sky, fit_median_sky
from galprep_dask.stats import sigma_clipped_stats

RNG_IMAGE = np.random.default_rng(7).lognormal(1, 0.6, (50, 60))


def test_level_and_rms_are_the_clipped_statistics():
    mask = RNG_IMAGE > 9
    for clip in ({}, {"sigma_clip": 2.0, "maxiters": 1}):
        renamed = {"sigma": clip.get("sigma_clip", 3.0), "maxiters": clip.get("maxiters", 5)}
        mean, median, std = sigma_clipped_stats(RNG_IMAGE, mask, **renamed)
        assert fit_median_sky(RNG_IMAGE, mask, **clip) == ConstantSky(median, std, "median")
        assert fit_mean_sky(RNG_IMAGE, mask, **clip) == ConstantSky(mean, std, "mean")
    assert mean != median


def test_evaluate_is_lazy(no_compute):
    sky = ConstantSky(4.25, 1.0, "median")
    with no_compute():
        image = sky.evaluate((30, 40), chunks=(10, 20))
    assert image.chunks == ((10, 10, 10), (20, 20))
    assert image.dtype == np.float64
    assert (image.compute() == 4.25).all()


def test_header():
    text = fit_mean_sky(RNG_IMAGE).to_header().tostring(sep="\n")
    header = fits.Header.fromstring(text, sep="\n")
    sky = fit_mean_sky(RNG_IMAGE)
    assert header["SKYMODEL"] == "mean"
    assert header["SKYLEV"] == pytest.approx(sky.level, rel=1e-13)
    assert header["SKYRMS"] == pytest.approx(sky.rms, rel=1e-13)


def test_nothing_good_is_an_error():
    for fit in (fit_median_sky, fit_mean_sky):
        with pytest.raises(NoGoodPixelsError):
            fit(RNG_IMAGE, np.ones(RNG_IMAGE.shape, bool))
