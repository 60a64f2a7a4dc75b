import weakref
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table
from fields import tan_header
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from star_fields import BINARY, STAR, detected, field_of_density, score, simulate_stars
from strategies import chunks_for

from galprep_dask import make_image, open_image, write_image
from galprep_dask.errors import (
    GaiaUnavailableError,
    GalprepError,
    ImageShapeError,
    MissingWCSError,
    NoGaiaWarning,
    NoStarsError,
    ParameterError,
)
from galprep_dask.image import celestial_wcs
from galprep_dask.io.fits_reader import FitsPlane
from galprep_dask.masks import flag_mask
from galprep_dask.psf import select_stars, star_stamps
from galprep_dask.psf.cuts import CUTS, REASONS
from galprep_dask.psf.match import match_gaia
from galprep_dask.segmentation import source_catalog


@pytest.fixture(scope="module")
def field():
    """60 stars and 1200 galaxies, a few bad pixels."""
    field = simulate_stars((700, 640), 60, seed=3, fwhm=3.0)
    field.image.flags.writeable = False
    return field


@pytest.fixture(scope="module")
def segmentation(field):
    labels = np.asarray(detected(field.image).data)
    labels.flags.writeable = False
    return labels


@pytest.fixture(scope="module")
def header(field):
    return tan_header(field.image.shape)


@pytest.fixture(scope="module")
def stars(field, segmentation, header):
    return select_stars(field.image, segmentation, header=header)


def rows_of(table, reason):
    return table[[text.startswith(reason) for text in table["reason"]]]


def sky_of(table, header):
    return np.column_stack(celestial_wcs(header).all_pix2world(table["x"], table["y"], 0))


def assert_same(one, other):
    """Equal to the bit in every column."""
    for name in one.colnames:
        a, b = (np.asarray(getattr(table[name], "value", table[name])) for table in (one, other))
        np.testing.assert_array_equal(a, b, err_msg=name)


# Truth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("area", "seed", "gradient"), [(80, 0, 0), (40, 3, 0), (25, 6, 0), (25, 12, 0), (40, 9, 0.15)])
def test_stars_among_twenty_times_as_many_galaxies(area, seed, gradient):
    field = field_of_density(area, seed, gradient=gradient)
    stars = select_stars(field.image, detected(field.image))
    purity, completeness = score(field, stars)
    assert purity >= 0.98
    assert completeness >= 0.6
    assert stars.meta["fwhm"] == pytest.approx(np.hypot(field.fwhm, 0.68), rel=0.03 + gradient)


def test_counts_are_those_of_the_reasons(stars):
    counts = stars.meta["counts"]
    assert list(counts) == list(CUTS)
    left = len(stars)
    for cut in CUTS[1:]:
        left -= sum(text.split(":")[0] == cut for text in stars["reason"])
        assert counts[cut] == left
    assert counts["raw"] == len(stars)
    assert left == stars["used"].sum() > 10
    assert set(stars["reason"]) <= set(REASONS)
    np.testing.assert_array_equal(stars["used"], stars["reason"] == "")
    np.testing.assert_array_equal(np.sort(stars["number"][stars["used"]]), np.arange(left))


def test_saturated_stars_are_known_by_the_keyword_and_by_themselves(field, segmentation, header):
    header = header.copy()
    header["SATURATE"] = field.saturate * 0.5
    by_keyword = select_stars(field.image, segmentation, header=header)
    assert (by_keyword["max_value"][by_keyword["used"]] < field.saturate * 0.5).all()
    assert len(rows_of(by_keyword, "flux: saturated")) > 0
    given = select_stars(field.image, segmentation, saturate=field.saturate * 0.5)
    np.testing.assert_array_equal(given["reason"], by_keyword["reason"])


def test_cores_that_are_cut_off_at_one_level_are_found_without_a_keyword():
    field = field_of_density(60, 2, n_stars=150, saturation=0.9)
    stars = select_stars(field.image, detected(field.image))
    used = stars[stars["used"]]
    assert (used["max_value"] < field.saturate).all()
    assert len(rows_of(stars, "flux: saturated")) >= 3
    assert stars.meta["saturate"] < field.saturate


@pytest.mark.parametrize("chunks", [(700, 640), (90, 70)])
def test_saturated_stars_are_known_by_bits_of_a_quality_image(field, segmentation, stars, chunks):
    """Two pixels that are bad, and no more, are put up with; one that is saturated is not."""
    quality = np.zeros(field.image.shape, np.uint8)
    one, other = stars[stars["used"]][2:4]
    for star, bit in ((one, 4), (other, 1)):
        quality[round(star["y"]), round(star["x"]) + 1] = bit
    lazy = da.from_array(field.image, chunks=chunks)
    again = select_stars(lazy, segmentation, mask=quality == 1, saturated=flag_mask(quality, 4), sky_std=1.0)
    reasons = dict(zip(again["label"].tolist(), again["reason"].tolist(), strict=True))
    assert reasons[one["label"]] == "flux: saturated"
    assert reasons[other["label"]] != "flux: saturated"
    assert again["n_central_bad"][again["label"] == other["label"]][0] == 1
    alone = select_stars(lazy, segmentation, saturated=flag_mask(quality, 4), sky_std=1.0)
    assert alone["reason"][alone["label"] == one["label"]][0] == "flux: saturated"


def test_a_star_beside_bad_pixels_is_left_out(field, segmentation, stars):
    star = stars[stars["used"]][0]
    mask = np.zeros(field.image.shape, bool)
    y, x = round(star["y"]), round(star["x"])
    mask[y, x : x + 3] = True
    again = select_stars(field.image, segmentation, mask=mask)
    row = again[again["label"] == star["label"]]
    assert not row["used"][0]
    mask[y, x : x + 3] = False
    mask[y + 8, x - 2 : x + 3] = True  # beyond a quarter of the box, 25 pixels
    far = select_stars(field.image, segmentation, mask=mask, size=25)
    assert far["used"][far["label"] == star["label"]][0]


def test_close_pairs_are_binaries():
    field = simulate_stars((700, 640), 60, seed=3, fwhm=3.0, binaries=0.4)
    stars = select_stars(field.image, detected(field.image))
    pairs = rows_of(stars, "isolation: close pair")
    assert len(pairs) >= 2
    distance = np.hypot(field.sources["x"] - pairs["x"][:, None], field.sources["y"] - pairs["y"][:, None])
    assert (field.sources["kind"][distance.argmin(axis=1)] == BINARY).all()


def test_stars_at_the_edge_are_left_out(field, segmentation, stars):
    used = stars[stars["used"]]
    star = used[np.argmin(np.abs(used["x"] - 150))]
    x = round(star["x"])
    for margin, reason in ((3, "central bad pixels"), (12, "")):
        cut = select_stars(field.image[:, x - margin :], segmentation[:, x - margin :], size=25)
        assert cut["reason"][cut["label"] == star["label"]][0] == reason


# The same answer ------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(chunks=chunks_for((700, 640)))
def test_chunks_change_nothing(field, segmentation, stars, header, chunks):
    lazy = [da.from_array(array, chunks=chunks, name=False) for array in (field.image, segmentation)]
    assert_same(select_stars(*lazy, header=header), stars)


@pytest.mark.parametrize("value", [0.0, 1e30, np.nan])
def test_nothing_depends_on_what_lies_under_the_mask(field, segmentation, value):
    mask = np.random.default_rng(0).uniform(size=field.image.shape) < 0.002
    expected = select_stars(field.image, segmentation, mask=mask)
    hidden = np.where(mask, np.float32(value), field.image)
    assert_same(select_stars(hidden, segmentation, mask=mask), expected)


def test_a_mirrored_image_has_the_same_stars(field, segmentation, stars):
    mirrored = select_stars(field.image[:, ::-1], segmentation[:, ::-1])
    assert set(mirrored["label"][mirrored["used"]]) == set(stars["label"][stars["used"]])
    assert mirrored.meta["fwhm"] == pytest.approx(stars.meta["fwhm"], rel=1e-4)


def test_units_do_not_matter(field, segmentation, stars):
    tiny = select_stars(field.image * np.float32(2.0**-40), segmentation)
    np.testing.assert_array_equal(tiny["reason"], stars["reason"])
    np.testing.assert_allclose(tiny["fwhm"].value, stars["fwhm"].value, rtol=1e-5)


def test_sigma_image_and_catalogue_may_be_given(field, segmentation, stars):
    std = stars.meta["sky_std"]
    catalog = source_catalog(field.image, segmentation)
    flat = select_stars(field.image, segmentation, catalog, sigma=np.full(field.image.shape, std))
    shared = set(flat["label"][flat["used"]]) & set(stars["label"][stars["used"]])
    assert len(shared) >= 0.9 * stars["used"].sum()


def test_image_is_read_once_where_the_noise_is_known(field, segmentation):
    reads = Counter()

    def read(block, block_info=None):
        reads[block_info[0]["chunk-location"]] += 1
        return block

    image = da.from_array(field.image, chunks=150, name=False).map_blocks(read, dtype="f4", meta=np.empty((0, 0), "f4"))
    catalog = source_catalog(field.image, segmentation)
    select_stars(image, segmentation, catalog, sky_std=1.0, fwhm=3.0)
    assert max(reads.values()) == 1


def test_few_blocks_are_in_memory_at_a_time(field, segmentation):
    """Of 100 blocks, however many sources lie across them: no block waits for its neighbours."""
    alive, most = set(), [0]

    def made(block, block_info=None):
        block, index = block.copy(), block_info[0]["chunk-location"]
        alive.add(index)
        most[0] = max(most[0], len(alive))
        weakref.finalize(block, alive.discard, index)
        return block

    image = da.from_array(field.image, chunks=(70, 64), name=False)
    image = image.map_blocks(made, dtype="f4", meta=np.empty((0, 0), "f4"))
    catalog = source_catalog(field.image, segmentation)
    with dask.config.set(scheduler="threads", num_workers=2):
        select_stars(image, segmentation, catalog, sky_std=1.0, fwhm=3.0)
    assert not alive
    assert 2 <= most[0] <= 8


def test_widths_of_many_sources_are_those_of_a_part_of_them(field, monkeypatch):
    """Windows that turn out to be made for another width are made anew, by few sources as by all of them."""
    labels = np.asarray(detected(field.image).data)
    catalog = source_catalog(field.image, labels)
    wrong = {"catalog": catalog, "sky_std": 1.0}
    monkeypatch.setattr("galprep_dask.psf.select.guess_width", lambda raw, min_snr: 3.0)
    expected = select_stars(field.image, labels, **wrong)
    monkeypatch.setattr("galprep_dask.psf.measure._TRIED", 60)
    by_few = select_stars(field.image, labels, **wrong)
    np.testing.assert_array_equal(by_few["reason"], expected["reason"])
    np.testing.assert_allclose(by_few["fwhm"][by_few["used"]].value, expected["fwhm"][by_few["used"]].value, rtol=1e-3)
    lazy = da.from_array(field.image, chunks=(300, 120), name=False)
    assert_same(select_stars(lazy, labels, **wrong), by_few)
    assert expected.meta["size"] == pytest.approx(8 * field.fwhm, rel=0.2)


def test_measuring_takes_two_tasks_a_block(field, segmentation):
    tasks = []
    with dask.callbacks.Callback(pretask=lambda key, *_: tasks.append(key)):
        lazy = [da.from_array(array, chunks=(100, 80), name=False) for array in (field.image, segmentation)]
        select_stars(lazy[0], lazy[1], source_catalog(field.image, segmentation), sky_std=1.0, fwhm=3.0)
    for name in ("cut-", "measured-"):
        assert 0 < sum(str(key[0]).startswith(name) for key in tasks) <= 7 * 8
    assert len(tasks) <= 8 * 7 * 8


# Cuts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["sky_std", "sigma"])
def test_few_sources_are_read_from_their_places_in_a_file(
    field, segmentation, stars, header, tmp_path, monkeypatch, noise
):
    """And measured as those of an array are, at the edges and beside bad pixels, too."""
    planes = {"mask": np.zeros(field.image.shape, bool)}
    planes["mask"][::97, ::53] = True
    given = {"header": header, "catalog": source_catalog(field.image, segmentation)}
    given["coordinates"] = sky_of(stars[np.isfinite(stars["fwhm"])], header)
    if noise == "sigma":
        planes["sigma"] = np.full(field.image.shape, 1.5)
    else:
        given["sky_std"] = 1.5
    expected = select_stars(field.image, segmentation, **given, **planes)
    stamps = star_stamps(field.image, expected, 31, segmentation=segmentation, **planes)
    image = make_image(field.image, segmentation=segmentation, **planes)
    image = open_image(write_image(image, tmp_path / "image.fits"), chunks=(200, 150))

    def read(plane, *arguments):
        raise AssertionError("a block is read")

    monkeypatch.setattr(FitsPlane, "_read", read)
    planes = {name: image[name] for name in planes}
    found = select_stars(image["data"], image["segmentation"], **given, **planes)
    assert np.isfinite(found["fwhm"]).sum() > 40
    assert_same(expected, found)
    again = star_stamps(image["data"], found, 31, segmentation=image["segmentation"], **planes)
    for one, other in zip(stamps, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_cut_has_its_parameter(field, segmentation, stars):
    def reasons(**kwargs):
        return select_stars(field.image, segmentation, **kwargs)

    used = stars[stars["used"]]
    assert len(rows_of(reasons(min_flux_fraction=1.0), "flux: too faint")) > len(rows_of(stars, "flux: too faint"))
    flux = float(np.median(used["flux"]))
    assert (reasons(max_flux=flux)["flux"][reasons(max_flux=flux)["used"]] <= flux).all()
    assert reasons(min_axis_ratio=0.9)["axis_ratio"][reasons(min_axis_ratio=0.9)["used"]].min() >= 0.9
    assert reasons(fwhm_sigma=1.0)["used"].sum() < len(used)
    isolated = reasons(max_neighbour_fraction=0.02)
    assert isolated["neighbour_fraction"][isolated["used"]].max() <= 0.02
    assert reasons(min_snr=200)["snr"][reasons(min_snr=200)["used"]].min() >= 200
    strict = reasons(max_galaxy_share=0.01)
    assert len(rows_of(strict, "FWHM: doubtful")) > len(rows_of(stars, "FWHM: doubtful"))


def test_documented_range_of_fwhm(field, segmentation, stars):
    by_hand = select_stars(field.image, segmentation, fwhm_median=stars.meta["fwhm"], fwhm_sigma=0.2)
    passed = by_hand[by_hand["used"] | [text.startswith(("isolation", "central")) for text in by_hand["reason"]]]
    sample = by_hand[[not text.startswith(("flux", "axis", "FWHM: not")) for text in by_hand["reason"]]]
    values = sample["fwhm"].value
    spread = 1.4826 * np.median(np.abs(values - np.median(values)))
    inside = np.abs(values - stars.meta["fwhm"]) <= 0.2 * spread
    assert inside.sum() == len(passed)
    assert set(sample["label"][inside]) == set(passed["label"])


def test_neighbours_are_counted_in_the_box(field, segmentation, stars):
    star = stars[stars["used"]][1]
    peak = source_catalog(field.image, segmentation, columns=["label", "max_value_xindex", "max_value_yindex"])
    row = peak[peak["label"] == star["label"]]
    y, x = int(row["max_value_yindex"][0]), int(row["max_value_xindex"][0])
    size = 31
    again = select_stars(field.image, segmentation, size=size)
    box = segmentation[y - 15 : y + 16, x - 15 : x + 16]
    expected = np.count_nonzero((box != 0) & (box != star["label"])) / size**2
    assert again["neighbour_fraction"][again["label"] == star["label"]][0] == pytest.approx(expected, abs=1e-12)


def test_dropping_by_number_keeps_the_numbers(field, segmentation, stars):
    drop = [0, 3, 5]
    again = select_stars(field.image, segmentation, drop=drop)
    np.testing.assert_array_equal(again["number"], stars["number"])
    np.testing.assert_array_equal(again["number"][again["reason"] == "dropped by hand"], drop)


def test_dropping_by_coordinate(field, segmentation, stars, header):
    chosen = stars[stars["used"]][[1, 4]]
    again = select_stars(field.image, segmentation, header=header, drop_coordinates=sky_of(chosen, header))
    assert set(again["label"][again["reason"] == "dropped by hand"]) == set(chosen["label"])
    as_angles = select_stars(
        field.image, segmentation, header=header, drop_coordinates=sky_of(chosen, header) * u.deg
    )
    np.testing.assert_array_equal(as_angles["reason"], again["reason"])


def test_coordinates_replace_the_raw_catalogue(field, segmentation, stars, header):
    chosen = stars[stars["used"]][:8]
    listed = sky_of(chosen, header)
    found = select_stars(field.image, segmentation, header=header, coordinates=listed)
    np.testing.assert_array_equal(found["label"], chosen["label"])
    assert found["used"].sum() >= 6


def test_a_coordinate_without_a_source_is_a_row_that_says_so(field, segmentation, stars, header):
    y, x = np.argwhere(np.add.reduceat(np.add.reduceat(segmentation != 0, np.arange(0, 700, 20), 0),
                                       np.arange(0, 640, 20), 1) == 0)[0] * 20 + 10  # fmt: skip
    sky = np.column_stack(celestial_wcs(header).all_pix2world([x], [y], 0))
    listed = np.vstack([sky, sky_of(stars[stars["used"]][:5], header)])
    found = select_stars(field.image, segmentation, header=header, coordinates=listed)
    assert found["reason"][0] == "raw: no source there"
    assert found["label"][0] == 0
    assert (found["x"][0], found["y"][0]) == pytest.approx((x, y), abs=1e-6)


def test_stars_of_all_regions_are_taken_in_turn(field, segmentation, stars):
    few = select_stars(field.image, segmentation, max_stars=8, regions=(2, 2))
    used, all_used = few[few["used"]], stars[stars["used"]]
    assert len(used) == 8

    def region(table):
        return (table["y"] > 349.5).astype(int) * 2 + (table["x"] > 319.5)

    there = Counter(region(all_used))
    assert Counter(region(used)) == dict.fromkeys(there, 2)
    for number in there:
        best = np.sort(all_used["snr"][region(all_used) == number])[-2:]
        np.testing.assert_array_equal(np.sort(used["snr"][region(used) == number]), best)
    assert few.meta["counts"]["quota"] == 8


# Gaia -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gaia(field, header):
    """Every true star above S/N 30, 0.3 pixels off."""
    truth = field.sources[(field.sources["kind"] == STAR) & (field.sources["snr"] > 30)]
    offset = np.random.default_rng(1).normal(0, 0.3, (2, len(truth)))
    ra, dec = celestial_wcs(header).all_pix2world(truth["x"] + offset[0], truth["y"] + offset[1], 0)
    return Table({"RA": ra, "DEC": dec})


def test_gaia_leaves_its_own(field, segmentation, header, gaia):
    stars = select_stars(field.image, segmentation, header=header, gaia=gaia)
    assert stars.meta["counts"]["Gaia match"] == (stars["gaia_row"] >= 0).sum() < len(stars) / 5
    assert score(field, stars)[0] == 1
    matched = stars[stars["gaia_row"] >= 0]
    x, y = celestial_wcs(header).all_world2pix(gaia["RA"], gaia["DEC"], 0)
    distance = np.hypot(x[matched["gaia_row"]] - matched["x"], y[matched["gaia_row"]] - matched["y"])
    assert distance.max() < 1.5 * 3.5 + 2
    by_pixels = select_stars(field.image, segmentation, gaia={"x": x, "y": y}, crossmatch=True)
    np.testing.assert_array_equal(by_pixels["reason"], stars["reason"])
    with_units = QTable({"ra": np.asarray(gaia["RA"]) * u.deg, "dec": np.asarray(gaia["DEC"]) * u.deg})
    asked = select_stars(field.image, segmentation, header=header, gaia=lambda header, shape: with_units)
    np.testing.assert_array_equal(asked["reason"], stars["reason"])


def test_each_gaia_source_is_that_of_one_source(field, segmentation, header, gaia):
    """Where two sources are near to the same star the closer one has it, and the other goes to the next or has none."""
    plain = select_stars(field.image, segmentation, header=header, gaia=gaia)
    assert len(np.unique(plain["gaia_row"])) == plain.meta["counts"]["Gaia match"] + 1
    star, other = plain[plain["used"]][:2]
    x, y = float(star["x"]), float(star["y"])
    sources = source_catalog(field.image, segmentation)
    # Two Gaia sources beside one star of the image, the farther first; and all others as they are.
    table = {
        "x": np.append([x + 1.5, x - 0.5], other["x"]), "y": np.append([y, y], other["y"]),
    }  # fmt: skip
    matched = select_stars(field.image, segmentation, sources, gaia=table, crossmatch=True)
    assert matched["gaia_row"][matched["label"] == star["label"]][0] == 1
    assert matched["gaia_row"][matched["label"] == other["label"]][0] == 2
    # And one Gaia source between two sources of the image.
    near = np.hypot(sources["x_centroid"] - x, sources["y_centroid"] - y)
    second = np.argsort(near)[1]
    other_x, other_y = (sources[name][second] for name in ("x_centroid", "y_centroid"))
    between = {"x": [0.7 * x + 0.3 * other_x], "y": [0.7 * y + 0.3 * other_y]}
    rows = match_gaia(
        np.asarray(sources["x_centroid"]), np.asarray(sources["y_centroid"]), between, True, None, field.image.shape,
        float(near[second]),
    )  # fmt: skip
    assert np.flatnonzero(rows >= 0).tolist() == [int(np.argmin(near))]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), m=st.integers(1, 60))
def test_the_closest_pair_comes_first(seed, n, m):
    """The same as taking pairs one after the other, by distance; last digits of a position change nothing."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 12, (2, n)) + rng.uniform(-0.2, 0.2, (2, n))
    gaia_x, gaia_y = rng.integers(0, 12, (2, m)) + rng.uniform(-0.2, 0.2, (2, m))
    distance = np.hypot(np.round(x, 6)[:, None] - gaia_x, np.round(y, 6)[:, None] - gaia_y)
    expected = np.full(n, -1)
    while distance.min() <= 3.0:
        i, j = np.unravel_index(np.argmin(distance), distance.shape)
        expected[i] = j
        distance[i, :] = distance[:, j] = np.inf
    assume((expected >= 0).any())
    table = {"x": gaia_x, "y": gaia_y}
    found = match_gaia(x, y, table, True, None, (12, 12), 3.0)
    np.testing.assert_array_equal(found, expected)
    assert len(set(found[found >= 0])) == (found >= 0).sum()
    np.testing.assert_array_equal(match_gaia(x + 1e-13, y - 1e-13, table, True, None, (12, 12), 3.0), expected)


def test_gaia_ignored(field, segmentation, header, gaia, stars):
    ignored = select_stars(field.image, segmentation, header=header, gaia=gaia, crossmatch=False)
    np.testing.assert_array_equal(ignored["reason"], stars["reason"])


def test_no_catalogue_is_a_warning_or_an_error(field, segmentation, header, stars):
    def unreachable(header, shape):
        raise GalprepError("the archive does not answer")

    with pytest.warns(NoGaiaWarning, match="the archive does not answer"):
        fallen_back = select_stars(field.image, segmentation, header=header, gaia=unreachable)
    np.testing.assert_array_equal(fallen_back["reason"], stars["reason"])
    with pytest.raises(GalprepError, match="the archive does not answer"):
        select_stars(field.image, segmentation, header=header, gaia=unreachable, crossmatch=True)
    with pytest.raises(GaiaUnavailableError, match=r'gaia= is None\. Pass gaia=.* or crossmatch="auto" or False'):
        select_stars(field.image, segmentation, crossmatch=True)


def test_an_empty_match_is_a_warning_or_an_error(field, segmentation, header, gaia, stars):
    hours = Table({"ra": gaia["RA"] / 15, "dec": gaia["DEC"]})
    with pytest.warns(NoGaiaWarning, match="0 are in the image"):
        fallen_back = select_stars(field.image, segmentation, header=header, gaia=hours)
    np.testing.assert_array_equal(fallen_back["reason"], stars["reason"])
    with pytest.raises(NoStarsError, match=r"(?s)none of \d+ sources lies within .* degrees, not hours"):
        select_stars(field.image, segmentation, header=header, gaia=hours, crossmatch=True)


# Bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"drop": [2, 99]}, ParameterError, r"drop has 99; stars are numbered 0 to \d+"),
        ({"drop": [-1]}, ParameterError, "drop has -1"),
        ({"drop": [0.5]}, ParameterError, "numbers of stars"),
        ({"size": 24}, ParameterError, "size=24; expected an odd number"),
        ({"size": 0}, ParameterError, "size=0"),
        ({"fwhm": -1.0}, ParameterError, "fwhm=-1.0"),
        ({"fwhm_sigma": 0}, ParameterError, "fwhm_sigma=0"),
        ({"min_axis_ratio": 1.2}, ParameterError, "min_axis_ratio=1.2"),
        ({"min_snr": np.nan}, ParameterError, "min_snr=nan"),
        ({"max_stars": 0}, ParameterError, "max_stars=0"),
        ({"regions": (0, 2)}, ParameterError, "regions="),
        ({"crossmatch": "yes"}, ParameterError, "crossmatch='yes'"),
        ({"coordinates": [[150.0, 2.0]]}, MissingWCSError, "header= is needed"),
        ({"coordinates": [150.0, 2.0], "header": True}, ParameterError, "coordinates has shape"),
        ({"coordinates": [[2.0, 150.0]], "header": True}, ParameterError, "Are they swapped"),
        ({"drop_coordinates": [[150.1, 2.1]], "header": True}, ParameterError, "no source lies within"),
        ({"coordinates": [[170.0, 2.0]], "header": True}, NoStarsError, "raw: no source there"),
        ({"gaia": {"lon": [1.0]}, "crossmatch": True}, ParameterError, "gaia has columns lon; expected ra and dec"),
        ({"min_snr": 1e9}, NoStarsError, "'flux: too faint' took the last"),
        ({"fwhm_median": 40.0}, NoStarsError, "'FWHM: too small' took the last"),
        ({"max_neighbour_fraction": 0.0, "size": 301}, NoStarsError, "'isolation: neighbours' took the last"),
        ({"catalog": Table({"label": [1]})}, ParameterError, "catalog has no x_centroid"),
    ],
)  # fmt: skip
def test_bad_input(field, segmentation, header, kwargs, error, words):
    kwargs = kwargs | ({"header": header} if "header" in kwargs else {})
    with pytest.raises(error, match=words):
        select_stars(field.image, segmentation, **kwargs)


def test_shapes_must_agree(field, segmentation):
    with pytest.raises(ImageShapeError, match="segmentation has shape"):
        select_stars(field.image, segmentation[1:])
    with pytest.raises(ImageShapeError, match="mask has shape"):
        select_stars(field.image, segmentation, mask=np.zeros((3, 3), bool))
    with pytest.raises(ImageShapeError, match="saturated has shape"):
        select_stars(field.image, segmentation, saturated=np.zeros((3, 3), bool))
    with pytest.raises(ImageShapeError, match="sigma has shape"):
        select_stars(field.image, segmentation, sigma=np.zeros((3, 3)))


def test_nothing_detected_and_no_noise(field):
    with pytest.raises(NoStarsError, match="no sources"):
        select_stars(field.image, np.zeros(field.image.shape, int))
    with pytest.raises(ParameterError, match=r"Pass sky_std= or sigma="):
        select_stars(np.zeros((50, 50)), np.eye(50, dtype=int))


def test_all_dropped_by_hand_names_the_cut(field, segmentation, stars):
    with pytest.raises(NoStarsError, match="'dropped by hand' took the last"):
        select_stars(field.image, segmentation, drop=np.arange(stars["used"].sum()))


def test_table_can_be_written_and_read(stars, tmp_path):
    stars.write(tmp_path / "stars.ecsv")
    again = QTable.read(tmp_path / "stars.ecsv")
    np.testing.assert_array_equal(again["fwhm"], stars["fwhm"])
    assert again.meta["counts"] == stars.meta["counts"]
    plain = QTable(stars, meta={})
    plain.write(tmp_path / "stars.fits")
    assert len(fits.getdata(tmp_path / "stars.fits", 1)) == len(stars)
