import pytest

from galprep_dask.errors import LyricError, ParameterError
from galprep_dask.pipeline.galfits import LyricBand, SersicStart, lyric_text, parse_lyric, read_lyric

BANDS = [
    LyricBand("t_r.fits", "sloan_r", 0.2, 12.0, 27.0, 0.5, wavelength=6176.0, atlas="vst"),
    LyricBand("t_K.fits", "ks", 0.339, 12.0, 30.0, 0.5, has_psf=False, atlas="vista"),
    LyricBand("t_i.fits", "sloan_i", 0.2, 12.0, None, 0.5, atlas="vst"),
]

#: Lines as GalfitS documents them, with what its parser has to cope with.
DOCUMENTED = """
# Region information
R1) PG0050+124                                  # name of the target
R2) [13.3955833333,12.6933888889]               # sky coordinate of the target [RA, Dec]
R3) 0.061

Ia1) [hst_0_F438W_cut.fits,0]                   # input data image (FITS file)
Ia3) [sdssu_cut.fits,2,2] \x20
Ia6) [Noimg,0]
Ia9) 1.5061352645923459e+18                     # conversion factor
Ia12) [[0,-0.5,0.5,0.1,1]]
Ia13) 0 \t\t\t# allow relative shifting
Ia14) [[0,-5,5,0.1,0],[0,-5,5,0.1,1]]   # [shiftx, shifty]
Sa1) PG0050+124_spec.txt                        # input spectrum file
Aa1) 'sdss' # name of the image atlas
Aa2) ['a', 'b']
Aa5) [] # spectra
Aa6) [[2]]
Pa2) sersic # profile type
Pa5) [2.6880000000000006,0.6720000000000002,10.752000000000002,0.1,0]\x20
Pa6) [4,1,6,0.1,1]
Pb1) arm
Pb3-16) ......                                  # same as the above
Pb21) 1
Fa7) [0.02, 1e-5, 0.04, 0.01, 1]                # Z
Na13) ['Hg','OIII_4959'] # narrow emission lines
SFHa2) exponential
MSRa2) [0.6, 0.75, 0.1]
GP) []     # name of parameter
"""


def test_documented_lines_are_read():
    blocks = parse_lyric(DOCUMENTED)
    assert blocks["R"] == {1: "PG0050+124", 2: [13.3955833333, 12.6933888889], 3: 0.061}
    assert blocks["Ia"][1] == ["hst_0_F438W_cut.fits", 0]
    assert blocks["Ia"][3] == ["sdssu_cut.fits", 2, 2]
    assert blocks["Ia"][9] == 1.5061352645923459e18
    assert blocks["Ia"][14] == [[0, -5, 5, 0.1, 0], [0, -5, 5, 0.1, 1]]
    assert (blocks["Ia"][13], blocks["Sa"][1]) == (0, "PG0050+124_spec.txt")
    assert blocks["Aa"] == {1: "sdss", 2: ["a", "b"], 5: [], 6: [[2]]}
    assert blocks["Pb"] == {1: "arm", 5: blocks["Pa"][5], 6: [4, 1, 6, 0.1, 1], 21: 1}
    assert blocks["Fa"][7][1] == 1e-5
    assert blocks["Na"][13] == ["Hg", "OIII_4959"]
    assert (blocks["SFHa"][2], blocks["MSRa"][2], blocks["GP"][0]) == ("exponential", [0.6, 0.75, 0.1], [])


def test_what_is_written_is_read_back():
    start = SersicStart(r_eff=1.5, n=4.0, axis_ratio=0.6, position_angle=100.0)
    blocks = parse_lyric(lyric_text("J1", 150.1, -2.2, BANDS, start=start, redshift=0.1, ebv=0.03, log_mass=10.5))
    assert blocks["R"] == {1: "J1", 2: [150.1, -2.2], 3: 0.1}
    for identity, band in zip("abc", BANDS, strict=True):
        image = blocks[f"I{identity}"]
        assert sorted(image) == list(range(1, 16))
        assert [image[n] for n in (1, 2, 3, 6)] == [[band.file, 0], band.band, [band.file, 2], [band.file, 1]]
        assert image[4] == ([band.file, 3] if band.has_psf else ["none", 0])
        assert (image[8], image[11], image[15]) == (12.0, "uniform", 1)
        assert image[12] == [[0.0, -1.5, 1.5, 0.05, 0]]
    # F438W of WFC3 is documented with 1.506e18 per AB zero point 24.83 and 4326 angstrom, here within 3 %.
    assert blocks["Ia"][9] == pytest.approx(10 ** (0.4 * 75.6) * 6176**2 / 2.99792458e18)
    assert blocks["Ib"][9] == -1
    assert blocks["Aa"][2] == ["a", "c"]
    assert blocks["Aa"][3] == 1
    assert blocks["Ab"][2] == ["b"]
    profile = blocks["Pa"]
    assert (profile[2], profile[5][0], profile[6][0], profile[8][0]) == ("sersic", 1.5, 4.0, 0.6)
    assert profile[7][:3] == [-80.0, -170.0, 10.0]
    assert all(low <= value <= high for value, low, high, _, _ in (profile[n] for n in (3, 4, 5, 6, 7, 8, 14)))
    assert blocks["Ga"][2] == ["a"]
    assert blocks["Ga"][3] == pytest.approx([0.1, 0.05, 0.15, 0.01, 0])
    assert blocks["Ga"][4] == 0.03


def test_without_redshift_magnitudes_are_fitted():
    blocks = parse_lyric(lyric_text("J1", 150.1, 2.2, BANDS[:2]))
    assert [blocks[f"I{identity}"][15] for identity in "ab"] == [0, 0]
    assert blocks["Ia"][10] == 27.0
    with pytest.raises(ParameterError, match="zero point of sloan_i is not known"):
        lyric_text("J1", 150.1, 2.2, BANDS)


def test_more_than_26_images_and_odd_names():
    bands = [LyricBand(f"t_{k}.fits", f"b{k}", 0.2, 12.0, 27.0, 0.5) for k in range(30)]
    blocks = parse_lyric(lyric_text("a # name\nR2) [0,0]", 150.1, 2.2, bands, redshift=0.1))
    assert blocks["Iad"][1] == ["t_29.fits", 0]
    assert len(blocks["Aa"][2]) == 30
    assert blocks["R"][1] == "a name R2) [0,0]"
    assert blocks["R"][2] == [150.1, 2.2]


@pytest.mark.parametrize("line", ["nonsense", "Ia1 [a,0]", "Ia1) [a,0", "Ia1) [a,0] b", "R1) a\nR1) b"])
def test_bad_lines_are_named(tmp_path, line):
    path = tmp_path / "a.lyric"
    path.write_text("# first\n" + line)
    with pytest.raises(LyricError, match=r"line [23] of .*a\.lyric"):
        read_lyric(path)


def test_missing_file_and_bad_numbers(tmp_path):
    with pytest.raises(LyricError, match=r"cannot read .*none\.lyric"):
        read_lyric(tmp_path / "none.lyric")
    with pytest.raises(ParameterError, match="finite"):
        lyric_text("J1", float("nan"), 2.2, BANDS, redshift=0.1)
    with pytest.raises(ParameterError, match="a band or more"):
        lyric_text("J1", 1.0, 2.2, [], redshift=0.1)
