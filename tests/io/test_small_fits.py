"""The bytes of small files are those that astropy writes."""

import io
import warnings

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from galprep_dask.io.small_fits import card_text, form_of, hdu_bytes

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=150)
VALUES = st.one_of(
    st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), TEXT,
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(np.float32), st.integers(-9, 9).map(np.int16),
    st.sampled_from(["", "it's", " a", "a ", "'", "&", "1.0", "T", "NGC: 1.0", -0.0, 1e-300, 5e-324, 1234.56789012345]),
)  # fmt: skip


@given(value=VALUES, comment=st.one_of(st.just(""), st.none(), TEXT))
def test_text_of_a_card(value, comment):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # comments that are cut off
        expected = fits.Card("KEYWORD", comment=comment)
        expected.value = value
        assert card_text("KEYWORD", value, comment) == str(expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, "\u03b1", "a\nb", [1]])
def test_values_that_no_card_can_hold(value):
    with pytest.raises(ValueError, match=r"(?i)value|character|string"):
        card_text("KEYWORD", value, "")


@pytest.mark.parametrize("before", ["KEYWORD = 1.50000E+00 / kept", "KEYWORD = 'old     '           / kept"])
def test_text_of_a_card_in_place_of_another(before):
    header = fits.Header.fromstring(before.ljust(80))
    for value, comment in ((1.5, "kept"), (1.5, "new"), (2.5, None), ("old", "kept"), ("o" * 90, "")):
        changed = header.copy()
        changed["KEYWORD"] = (value, comment)
        assert card_text("KEYWORD", value, comment, header.cards[0]) == str(changed.cards[0])
    assert str(header.cards[0]) == before.ljust(80)


@pytest.mark.parametrize("value", [1.5, "it's a long text " * 9, True])
@pytest.mark.parametrize("dtype", ["f4", "u1", ">i2", "f8", "i4"])
def test_hdus_with_their_sums(dtype, value):
    rng = np.random.default_rng(0)
    header = fits.Header([("BEFORE", 1.0, "a comment"), ("LONG", "text " * 30, ""), ("HISTORY", "h" * 100)])
    kinds = ((fits.PrimaryHDU, {"header": header}), (fits.ImageHDU, {"name": "PLANE"}))
    forms = []
    for kind, more in kinds:
        empty = kind(np.zeros((1, 1), dtype), **more)
        empty.header["FILLED"] = 0
        forms.append(form_of(empty, ["FILLED", "ABSENT"]))
    own = {"FILLED": card_text("FILLED", value, "comment"), "ABSENT": "no place for this"}
    for shape in ((1, 1), (1, 720), (7, 5), (60, 61)):
        pixels = (rng.normal(size=shape) * 1000).astype(dtype)
        pixels.flags.writeable = False
        hdus = fits.HDUList([kind(pixels.copy(), **more) for kind, more in kinds])
        for hdu in hdus:
            hdu.header["FILLED"] = (value, "comment")
            hdu.add_checksum(when="")
        expected = io.BytesIO()
        hdus.writeto(expected)
        written = b"".join(hdu_bytes(form, own, pixels) for form in forms)
        assert written == expected.getvalue()
        with fits.open(io.BytesIO(written), checksum=True) as hdus:  # warns, and so fails, where a sum is wrong
            np.testing.assert_array_equal(hdus["PLANE"].data, pixels)
