"""One header of every kind that mosaics come in."""

from fields import tan_header

__all__ = ["SHAPE", "projections"]

SHAPE = (201, 241)


def projections():
    """One header of every kind that mosaics come in."""
    sip = tan_header(SHAPE, CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", A_ORDER=2, B_ORDER=2)
    sip.update(A_2_0=2e-5, A_1_1=-1e-5, B_0_2=1.5e-5, B_2_0=-5e-6)
    tpv = tan_header(SHAPE, CTYPE1="RA---TPV", CTYPE2="DEC--TPV")
    tpv.update(PV1_0=0.0, PV1_1=1.0, PV1_7=1e-2, PV2_0=0.0, PV2_1=1.0, PV2_7=-2e-2)
    zpn = tan_header(SHAPE, CTYPE1="RA---ZPN", CTYPE2="DEC--ZPN", PV2_1=1.0, PV2_3=44.0)
    flipped = tan_header(SHAPE)
    flipped["CD1_1"] *= -1
    alternative = tan_header(SHAPE)
    alternative.update(CTYPE1A="LINEAR", CTYPE2A="LINEAR", CRPIX1A=1.0, CRPIX2A=1.0, CRVAL1A=7.0, CRVAL2A=9.0)
    return {
        "tan": tan_header(SHAPE), "rotated": tan_header(SHAPE, rotation=37.0), "flipped": flipped, "sip": sip,
        "tpv": tpv, "zpn": zpn, "alternative": alternative,
    }  # fmt: skip
