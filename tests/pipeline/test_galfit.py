import pytest

from galprep_dask.errors import ParameterError
from galprep_dask.pipeline.galfit import GalfitStart, feedme_text

START = GalfitStart(x=50.0, y=40.0, mag=19.5, r_eff=8.0, n=3.0, axis_ratio=0.5, position_angle=100.0)


def items(text):
    """The value behind every key, the first of each for the profile."""
    found = {}
    for line in text.splitlines():
        if ")" in line:
            key, _, value = line.partition(")")
            found.setdefault(key.strip(), []).append(value.split("#")[0].split())
    return found


def test_planes_region_and_profile():
    feedme = items(feedme_text("t_r.fits", (81, 101), START, pixel_scale=0.2, zeropoint=27.0, psf_size=31))
    assert [feedme[key][0] for key in "ACDF"] == [["t_r.fits[0]"], ["t_r.fits[2]"], ["t_r.fits[3]"], ["t_r.fits[1]"]]
    assert feedme["G"] == [["none"]]
    assert feedme["H"] == [["1", "101", "1", "81"]]
    assert feedme["I"] == [["31", "31"]]
    assert feedme["K"] == [["0.200000", "0.200000"]]
    assert feedme["0"] == [["sersic"], ["sky"]]
    assert feedme["1"][0] == ["51.0000", "41.0000", "1", "1"]  # GALFIT counts pixels from 1
    assert [feedme[key][0][0] for key in ("3", "4", "5", "9", "10")] == [
        "19.5000", "8.0000", "3.0000", "0.5000", "-80.0000",
    ]  # fmt: skip
    assert feedme["3"][0][1] == "1"
    assert feedme["1"][1] == ["0.0000", "0"]  # the sky is fixed


def test_zeropoint_makes_up_for_the_division_by_exptime():
    with_time = items(feedme_text("a", (9, 9), START, pixel_scale=0.2, zeropoint=27.0, exptime=100.0))
    without = items(feedme_text("a", (9, 9), START, pixel_scale=0.2, zeropoint=27.0))
    assert (with_time["J"], without["J"]) == ([["22.0000"]], [["27.0000"]])


def test_without_a_psf():
    assert items(feedme_text("a", (9, 9), START, pixel_scale=0.2, zeropoint=27.0, has_psf=False))["D"] == [["none"]]


@pytest.mark.parametrize(("name", "value"), [("r_eff", 0.0), ("mag", float("nan")), ("n", -1.0)])
def test_bad_numbers_are_named(name, value):
    start = GalfitStart(**{**vars(START), name: value})
    with pytest.raises(ParameterError, match=f"{name}="):
        feedme_text("a", (9, 9), start, pixel_scale=0.2, zeropoint=27.0)
