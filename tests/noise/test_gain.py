import numpy as np
import pytest
from astropy import units as u

from galprep_dask.errors import ParameterError
from galprep_dask.noise import effective_gain


def test_electrons_of_a_source_of_known_magnitude():
    """A source of AB magnitude ``zeropoint`` is one count, ``gain`` electrons, in every unit."""
    gain, zeropoint = 2.5, 25.0
    flux = (zeropoint * u.ABmag).to(u.Jy)
    for unit in ("nJy", "uJy", "Jy", "erg / (s cm2 Hz)", u.mJy):
        assert flux.to_value(unit) * effective_gain(gain, zeropoint=zeropoint, unit=unit) == pytest.approx(gain)
    brightness = flux / (0.03 * u.arcsec) ** 2
    for unit in ("MJy/sr", "uJy / arcsec2"):
        found = effective_gain(gain, zeropoint=zeropoint, unit=unit, pixel_scale=0.03)
        assert brightness.to_value(unit) * found == pytest.approx(gain)


def test_zero_point_of_nanojansky():
    assert effective_gain(3.0, zeropoint=31.4, unit="nJy") == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"gain": 0.0}, "gain=0.0"), ({"gain": -1.0}, "gain=-1.0"), ({"gain": np.nan}, "gain=nan"),
        ({"zeropoint": np.inf}, "zeropoint=inf"), ({"unit": "blip"}, "no unit that astropy knows"),
        ({"unit": "adu"}, "expected a flux density"), ({"unit": "MJy/sr"}, "pixel_scale=None"),
        ({"unit": "MJy/sr", "pixel_scale": 0.0}, "pixel_scale=0.0"),
    ],
)  # fmt: skip
def test_errors(wrong, named):
    with pytest.raises(ParameterError, match=named):
        effective_gain(**{"gain": 1.0, "zeropoint": 25.0, "unit": "nJy"} | wrong)
