import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats as astropy_stats

from galprep_dask.errors import NoGoodPixelsError, ParameterError
from galprep_dask.segmentation import detect_threshold

IMAGE = np.random.default_rng(4).standard_t(3, (60, 70)) + 20


def test_is_so_many_standard_deviations_above_the_median():
    mask = IMAGE > 22
    for clip in ({}, {"sigma_clip": 2.0}, {"maxiters": 1}):
        sigma, maxiters = clip.get("sigma_clip", 3.0), clip.get("maxiters", 10)
        _, median, std = astropy_stats(IMAGE, mask=mask, sigma=sigma, maxiters=maxiters)
        for n_sigma in (2.5, -1.0):
            found = detect_threshold(IMAGE, n_sigma, mask=mask, **clip)
            assert found == pytest.approx(median + n_sigma * std, rel=1e-12)


def test_values_under_the_mask_do_not_count():
    mask = IMAGE > 22
    expected = detect_threshold(IMAGE, 3, mask=mask)
    for hidden in (0.0, 1e30, np.nan):
        assert detect_threshold(np.where(mask, hidden, IMAGE), 3, mask=mask) == expected


def test_errors():
    for n_sigma in (np.nan, np.inf):
        with pytest.raises(ParameterError, match="n_sigma"):
            detect_threshold(IMAGE, n_sigma)
    with pytest.raises(NoGoodPixelsError):
        detect_threshold(IMAGE * np.nan, 3)
