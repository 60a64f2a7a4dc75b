"""Many cutouts in one pass: those that each would be alone, every chunk read once, and no target sinks the others."""

import pickle
import threading
import warnings
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.wcs import WCS
from fields import gaussian, tan_header
from hypothesis import given, settings
from hypothesis import strategies as st
from projections import SHAPE, projections
from strategies import chunks_for

from galprep_dask import make_image, open_image, write_image
from galprep_dask.cutouts import cutout, cutout_many
from galprep_dask.cutouts.batch import _cut_lazily
from galprep_dask.errors import (
    EdgeWarning,
    ImageFileError,
    MissingWCSError,
    NoGoodPixelsError,
    NoTargetsWarning,
    ParameterError,
    TargetOutsideError,
)
from galprep_dask.image import image_header
from galprep_dask.io.fits_reader import FitsPlane

PIXELS = np.arange(201 * 241, dtype="f4").reshape(SHAPE)
PIXELS.flags.writeable = False


class Counting:
    """Pixels that count how often each chunk of them is read."""

    ndim = 2

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype
        self.reads, self.lock = Counter(), threading.Lock()

    def __getitem__(self, index):
        with self.lock:
            self.reads[tuple((axis.start, axis.stop) for axis in index)] += 1
        return self.pixels[index]


def counted(pixels, chunks):
    source = Counting(pixels)
    return source, da.from_array(source, chunks=chunks, inline_array=True, meta=np.empty((0, 0), pixels.dtype))


def five_planes(chunks=(50, 70), header=None):
    return make_image(
        da.from_array(PIXELS, chunks=chunks, name=False), mask=PIXELS % 97 == 0, sigma=PIXELS + 1,
        weight=PIXELS.astype("f8") + 2, segmentation=(PIXELS % 5).astype("i4"), unit="adu", gain=2.0,
        header=tan_header(SHAPE) if header is None else header,
    )  # fmt: skip


def on_sky(x, y, header=None):
    return WCS(tan_header(SHAPE) if header is None else header).all_pix2world(x, y, 0)


def alone(image, ra, dec, size):
    """What ``cutout`` gives, computed, or None for a target outside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgeWarning)
        try:
            return cutout(image, ra, dec, size).compute()
        except TargetOutsideError:
            return None


def assert_same(found, expected):
    assert (found is None) == (expected is None)
    if expected is not None:
        xr.testing.assert_identical(found, expected)
        for name in expected:
            assert found[name].dtype == expected[name].dtype


IN_MEMORY = five_planes().compute()


@settings(max_examples=25)
@given(st.data())
def test_pixels_and_headers_are_those_of_each_alone_for_every_chunking(data):
    image = five_planes(data.draw(chunks_for(SHAPE)))
    n = data.draw(st.integers(1, 6))
    place = st.tuples(st.floats(-20, 260), st.floats(-20, 220))
    x, y = np.transpose(data.draw(st.lists(place, min_size=n, max_size=n)))
    side = st.integers(1, 90) | st.sampled_from([250, 420])
    sizes = np.array(data.draw(st.lists(st.tuples(side, side), min_size=n, max_size=n)))
    ra, dec = on_sky(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoTargetsWarning)
        found, table = cutout_many(image, ra, dec, sizes)
    for k in range(n):
        assert_same(found[k], alone(IN_MEMORY, ra[k], dec[k], tuple(sizes[k])))
        assert table["cut"][k] == (found[k] is not None) == (table["reason"][k] == "")
        if found[k] is not None:
            assert table["n_padded"][k] == np.isnan(found[k]["data"].values).sum()
            assert found[k]["data"].shape == (table["ny"][k], table["nx"][k])


@pytest.mark.parametrize("name", projections())
def test_sky_positions_are_those_of_the_parent_in_every_projection(name):
    header = projections()[name]
    parent = WCS(header)
    x, y = np.random.default_rng(0).uniform(5, [235, 195], (20, 2)).T
    ra, dec = on_sky(x, y, header)
    image = five_planes(header=header)
    found, table = cutout_many(image, ra, dec, (31, 45))
    image = image.compute()
    assert table["cut"].all()
    np.testing.assert_allclose(np.transpose([table["x"], table["y"]]), np.transpose([x, y]), atol=1e-5)
    for k, cut in enumerate(found):
        offset = table["x0"][k], table["y0"][k]
        corners = np.array([[0, 0], [44, 0], [0, 30], [44, 30], [22.3, 14.8]])
        world = parent.all_pix2world(corners + offset, 0)
        np.testing.assert_allclose(cut.galprep.wcs.all_world2pix(world, 0), corners, atol=1e-6)
        own = cut.galprep.header
        assert (own["LTV1"], own["LTV2"]) == (-offset[0], -offset[1])
        assert_same(cut, alone(image, ra[k], dec[k], (31, 45)))


@pytest.mark.parametrize("name", projections())
def test_stars_are_found_where_they_were_put_in_both_countings(name):
    header = projections()[name]
    x, y = np.array([83.25, 120.5, 40.75]), np.array([120.75, 60.0, 160.3])
    stars = sum(gaussian(SHAPE, *at, 1000, 2.0) for at in zip(x, y, strict=True))
    ra, dec = on_sky(x, y, header)
    image = make_image(stars, header=header, chunks=(64, 50))
    found, _ = cutout_many(image, ra, dec, 41)
    iy, ix = np.mgrid[:41, :41]
    for k, cut in enumerate(found):
        for one in (cut, cutout(image, ra[k], dec[k], 41)):
            pixels = one["data"].values
            centre = np.array([(pixels * ix).sum(), (pixels * iy).sum()]) / pixels.sum()
            for counted_from in (0, 1):
                position = one.galprep.wcs.all_world2pix(ra[k], dec[k], counted_from)
                np.testing.assert_allclose(position, centre + counted_from, atol=0.01)


@pytest.mark.parametrize("derived", [False, True])
def test_every_chunk_is_read_once_and_none_without_a_target(derived):
    rng = np.random.default_rng(1)
    sources = [counted(rng.normal(size=SHAPE).astype("f4"), (25, 30)) for _ in range(2)]
    (source, data), (_, sigma) = sources
    sigma = np.sqrt(abs(data) + 1) if derived else sigma
    image = make_image(data, mask=~np.isfinite(data) | (data > 3), sigma=sigma, header=tan_header(SHAPE))
    x, y = rng.uniform(0, [120, 200], (300, 2)).T
    found, table = cutout_many(image, *on_sky(x, y), 21)
    assert table["cut"].all()
    needed = {
        ((i, min(i + 25, 201)), (j, min(j + 30, 241)))
        for i in range(0, 201, 25) for j in range(0, 241, 30)
        if any(y0 < i + 25 and y0 + 21 > i and x0 < j + 30 and x0 + 21 > j for x0, y0 in table["x0", "y0"].iterrows())
    }  # fmt: skip
    assert 40 < len(needed) < 50
    for other, _ in sources:
        assert other.reads == Counter([] if derived and other is not source else needed)
    assert_same(found[7], alone(image, *(float(v) for v in on_sky(x[7], y[7])), 21))


def written(path, **planes):
    """A file with an HDU for every plane, as surveys write them."""
    hdus = [
        fits.PrimaryHDU(PIXELS, tan_header(SHAPE)),
        *(fits.ImageHDU(plane, name=name) for name, plane in planes.items()),
    ]
    fits.HDUList(hdus).writeto(path)


@pytest.mark.parametrize("n_targets", [3, 300])
@pytest.mark.parametrize("read_in_parts", [True, False])
def test_every_block_of_a_file_is_read_once(tmp_path, monkeypatch, n_targets, read_in_parts):
    """Whole, or where little of it is wanted that alone."""
    path = tmp_path / "mosaic.fits"
    written(path, mask=(PIXELS % 97 == 0).astype("u1"), weight=(PIXELS % 50).astype("i2"), sigma=PIXELS * 2)
    image = open_image(path, mask=1, weight=2, sigma=3, chunks=(50, 70))
    reads, lock = Counter(), threading.Lock()
    windows, read = FitsPlane.windows, FitsPlane._read

    def note(plane, regions):
        rows, columns = (
            {(axis.start // n, (axis.stop - 1) // n) for axis in axes}
            for axes, n in zip(zip(*regions, strict=True), (50, 70), strict=True)
        )
        assert len(rows) == len(columns) == 1
        with lock:
            reads[plane.hdu, *rows, *columns] += 1

    monkeypatch.setattr(FitsPlane, "windows", lambda plane, regions: note(plane, regions) or windows(plane, regions))
    monkeypatch.setattr(FitsPlane, "_read", lambda plane, region: note(plane, [region]) or read(plane, region))
    if not read_in_parts:
        monkeypatch.setattr(FitsPlane, "has_windows", False)
    x, y = np.random.default_rng(5).uniform([0, 0], [240, 200], (n_targets, 2)).T
    ra, dec = on_sky(x, y)
    found, table = cutout_many(image, ra, dec, 21)
    assert set(reads.values()) == {1}
    assert {hdu for hdu, _, _ in reads} == {0, 1, 2, 3}
    assert table["cut"].all()
    for k in range(3):
        assert_same(found[k], alone(image.compute(), ra[k], dec[k], 21))


def test_little_of_a_block_is_read_where_little_is_wanted(tmp_path, monkeypatch):
    path = tmp_path / "mosaic.fits"
    written(path)
    pixels = []
    windows = FitsPlane.windows

    def counting(plane, regions):
        arrays = windows(plane, regions)
        pixels.extend(array.size for array in arrays)
        return arrays

    monkeypatch.setattr(FitsPlane, "windows", counting)
    monkeypatch.setattr(FitsPlane, "_read", None)
    found, _ = cutout_many(open_image(path), *on_sky([50.0, 120.0], [60.0, 100.0]), 31)
    assert pixels == [31 * 31] * 2
    np.testing.assert_array_equal(found[0]["data"], PIXELS[45:76, 35:66])


def test_the_sink_is_called_once_for_each_cutout_soon_after_its_last_chunk_was_read():
    """Two targets in each of 20 rows of chunks, one in the middle and one on the border to the next."""
    log = []

    def read(block, block_info=None):
        log.append(("read", block_info[0]["chunk-location"][0]))
        return block

    def sink(k, cut):
        log.append(("cut", k))
        return k, float(cut["data"].sum())

    data = da.from_array(PIXELS, chunks=(10, 241)).map_blocks(read, dtype="f4", meta=np.empty((0, 0), "f4"))
    y = np.arange(5, 200, 5.0)
    with dask.config.set(scheduler="sync"):
        results, _ = cutout_many(
            make_image(data, header=tan_header(SHAPE)), *on_sky(np.full(39, 100.0), y), 5, sink=sink
        )
    assert sorted(k for what, k in log if what == "cut") == list(range(39))
    assert [k for k, _ in results] == list(range(39))
    assert results[7][1] == PIXELS[38:43, 98:103].sum()
    rows_of = {k: {int(at - 2) // 10, int(at + 2) // 10} for k, at in enumerate(y)}
    read_rows, handed_on = set(), set()
    for what, which in log:
        (read_rows if what == "read" else handed_on).add(which)
        assert len([k for k, rows in rows_of.items() if rows <= read_rows and k not in handed_on]) <= 4


def test_nothing_of_the_cutouts_is_kept_when_there_is_a_sink():
    import gc
    import weakref

    alive = []

    def sink(k, cut):
        array = cut["data"].values
        alive.append(weakref.ref(array))
        return k

    x, y = np.random.default_rng(2).uniform(10, [230, 190], (60, 2)).T
    results, _ = cutout_many(five_planes(), *on_sky(x, y), 41, sink=sink)
    assert results == list(range(60))
    gc.collect()
    assert len(alive) == 60
    assert not any(ref() is not None for ref in alive)


def test_cutouts_may_be_changed_by_the_sink_without_touching_the_image_or_each_other():
    image = five_planes()
    ra, dec = on_sky([60.0, 60.0, 62.0], [70.0, 70.0, 71.0])

    def spoil(k, cut):
        before = cut["data"].values.copy()
        cut["data"].values[:] = -1
        cut["mask"].values[:] = True
        return before

    results, _ = cutout_many(image.compute(), ra, dec, 21, sink=spoil)
    np.testing.assert_array_equal(results[1], PIXELS[60:81, 50:71])
    np.testing.assert_array_equal(results[2], PIXELS[61:82, 52:73])


def test_targets_that_cannot_be_cut_are_listed_and_not_fatal():
    ra, dec = on_sky([50.0, -40.0, 60.0, 60.0, 70.0, 80.0], [60.0, 60.0, 50.0, 50.0, 40.0, 30.0])
    ra[2], dec[3] = np.nan, 120.0
    ra, dec = np.append(ra, 330.0), np.append(dec, -2.0)
    sizes = np.array([21, 21, 21, 21, 0, np.nan, 21])
    found, table = cutout_many(five_planes(), ra, dec, sizes)
    assert table["cut"].tolist() == [True] + [False] * 6
    assert [cut is not None for cut in found] == table["cut"].tolist()
    reasons = [
        "^$", r"at pixel x=-40.0, y=60.0, outside the image, which has 241 x 201 pixels",
        "ra=nan.* no position in degrees", "dec=120.0 is no position.*swapped",
        r"size=\(0.0, 0.0\); expected one or two whole", "size=.nan", "not on the part of the sky",
    ]  # fmt: skip
    for reason, expected in zip(table["reason"], reasons, strict=True):
        with pytest.raises(ValueError, match=expected):
            raise ValueError(reason)
    assert table["reason"].dtype.kind == "U"


def test_an_error_of_ours_in_the_sink_is_a_reason_and_any_other_ends_the_run():
    ra, dec = on_sky([50.0, 60.0, 100.0], [60.0, 50.0, 101.0])

    def sink(k, cut):
        if k == 1:
            raise NoGoodPixelsError("nothing left to fit")
        return k

    results, table = cutout_many(five_planes(), ra, dec, 21, sink=sink)
    assert results == [0, None, 2]
    assert table["cut"].tolist() == [True, False, True]
    assert table["reason"].tolist() == ["", "nothing left to fit", ""]

    def broken(k, cut):
        raise ZeroDivisionError(k)

    with pytest.raises(ZeroDivisionError):
        cutout_many(five_planes(), ra, dec, 21, sink=broken)


def test_a_file_that_cannot_be_read_is_not_the_fault_of_a_target(tmp_path):
    path = write_image(five_planes(), tmp_path / "mosaic.fits")
    opened = open_image(path)
    path.write_bytes(path.read_bytes() + b" " * 2880)
    with pytest.raises(ImageFileError, match=r"mosaic.fits' was changed since it was opened"):
        cutout_many(opened, *on_sky([50.0], [60.0]), 21)


def test_targets_on_the_corners_of_image_and_chunks():
    x = np.array([0.0, 240, 0, 240, 69.5, 70, 69.5, -0.5])
    y = np.array([0.0, 0, 200, 200, 49.5, 50, 10, 10])
    ra, dec = on_sky(x, y)
    for size in (1, 2, 21):
        found, table = cutout_many(five_planes(), ra, dec, size)
        for k in range(len(x)):
            assert_same(found[k], alone(IN_MEMORY, ra[k], dec[k], size))
        if size == 21:
            assert table["n_padded"].tolist()[:4] == [441 - 121] * 4
            assert (found[0]["mask"].values[:10].all(), bool(found[0]["mask"].values[10:, 10:].all())) == (True, False)


def test_a_cutout_larger_than_the_image_is_padded_on_all_sides_and_an_absurd_one_refused():
    found, table = cutout_many(five_planes(), [150.0], [2.0], 501)
    assert_same(found[0], alone(IN_MEMORY, 150.0, 2.0, 501))
    assert table["n_padded"][0] == 501**2 - 201 * 241 == int(np.isnan(found[0]["data"]).sum())
    with pytest.warns(NoTargetsWarning, match="far larger than the image"):
        found, table = cutout_many(five_planes(), [150.0], [2.0], 10**6)
    assert found == [None]
    with pytest.raises(ParameterError, match="1000000 x 1000000 pixels is far larger than the image"):
        cutout(five_planes(), 150.0, 2.0, 10**6)


def test_images_without_mask_get_one_only_where_they_are_padded():
    image = make_image(da.from_array(PIXELS, chunks=60), header=tan_header(SHAPE))
    ra, dec = on_sky([0.0, 100.0], [0.0, 100.0])
    found, _ = cutout_many(image, ra, dec, 11)
    assert ("mask" in found[0], "mask" in found[1]) == (True, False)
    for k in range(2):
        assert_same(found[k], alone(image, ra[k], dec[k], 11))


@pytest.mark.parametrize(
    "size",
    [
        21,
        (21, 21),
        10.5 * u.arcsec,
        (10.5 * u.arcsec, 10.5 * u.arcsec),
        [21, 21],
        np.full((2, 2), 21),
        [10.5, 10.5] * u.arcsec,
    ],
    ids=str,
)
def test_sizes_for_all_and_for_each(size):
    _, table = cutout_many(five_planes(), *on_sky([50.0, 60.0], [60.0, 50.0]), size)
    assert table["nx"].tolist() == table["ny"].tolist() == [21, 21]


def test_positions_from_tables():
    ra, dec = on_sky([50.0, 60.0, 90.0], [60.0, 50.0, 90.0])
    expected = [True, True, True]
    coordinates = SkyCoord(ra, dec, unit="deg")
    for one, other in (
        (list(ra), tuple(dec)), (ra * u.deg, dec * u.deg), (coordinates.ra, coordinates.dec),
        (ra / 15 * u.hourangle, dec), (Table({"ra": ra})["ra"], Table({"dec": dec})["dec"]),
        (QTable({"a": ra * u.deg})["a"], dec),
    ):  # fmt: skip
        _, table = cutout_many(five_planes(), one, other, 11)
        assert table["cut"].tolist() == expected
        np.testing.assert_allclose(table["x"], [50, 60, 90], atol=1e-5)
    masked = MaskedColumn(ra, mask=[False, True, False])
    assert cutout_many(five_planes(), masked, dec, 11)[1]["cut"].tolist() == [True, False, True]
    quantities = Table({"ra": MaskedColumn(ra, mask=[False, True, False], unit="deg")}, masked=True)
    assert cutout_many(five_planes(), QTable(quantities)["ra"], dec, 11)[1]["cut"].tolist() == [True, False, True]


def test_no_targets_and_one():
    found, table = cutout_many(five_planes(), [], [], 11)
    assert (found, len(table)) == ([], 0)
    assert table.colnames == ["ra", "dec", "x", "y", "x0", "y0", "nx", "ny", "n_padded", "cut", "reason"]
    found, table = cutout_many(five_planes(), 150.0, 2.0, 11)
    assert_same(found[0], alone(IN_MEMORY, 150.0, 2.0, 11))


def test_a_field_that_is_somewhere_else_is_a_warning():
    with pytest.warns(NoTargetsWarning, match=r"none of 2 targets can be cut out of the image.*swapped"):
        found, table = cutout_many(five_planes(), [2.0, 2.1], [80.0, 80.0], 11)
    assert found == [None, None]
    with pytest.warns(NoTargetsWarning, match="dec=150.0 is no position"):
        cutout_many(five_planes(), [2.0], [150.0], 11)


@pytest.mark.parametrize(
    "wrong", [0, -3, 2.5, np.nan, "large", 3 * u.s, (1, 2, 3), [5, 5, 5], np.ones((2, 3))], ids=str
)
def test_sizes_that_make_no_sense(wrong):
    with pytest.raises(ParameterError, match="size"):
        cutout_many(five_planes(), [150.0, 150.0], [2.0, 2.0], wrong)


def test_positions_that_make_no_sense():
    with pytest.raises(ParameterError, match="ra has 2 positions, dec has 1"):
        cutout_many(five_planes(), [150.0, 150.0], [2.0], 11)
    with pytest.raises(ParameterError, match="ra cannot be taken for angles"):
        cutout_many(five_planes(), ["10:00:00"], [2.0], 11)
    with pytest.raises(ParameterError, match="dec cannot be taken for angles"):
        cutout_many(five_planes(), [150.0], [2.0] * u.m, 11)
    with pytest.raises(ParameterError, match="ra has shape"):
        cutout_many(five_planes(), [[150.0]], [[2.0]], 11)
    with pytest.raises(MissingWCSError, match="no celestial WCS"):
        cutout_many(five_planes(header=fits.Header()), [150.0], [2.0], 11)


def test_cubes_and_planes_of_other_chunks_and_names():
    cube = np.random.default_rng(0).normal(size=(5, *SHAPE))
    image = make_image(da.from_array(cube, chunks=(2, 60, 70)), mask=PIXELS % 7 == 0, header=tan_header(SHAPE))
    ra, dec = on_sky([0.0, 100.0, 140.0], [0.0, 100.0, 120.0])
    found, _ = cutout_many(image, ra, dec, 31)
    for k in range(3):
        assert_same(found[k], alone(image, ra[k], dec[k], 31))
    other = five_planes().assign(
        exposure=(("y", "x"), da.from_array(PIXELS, chunks=33)), flags=(("y", "x"), np.ones(SHAPE, "i2"))
    )
    found, _ = cutout_many(other, ra, dec, 31)
    for k in range(3):
        assert_same(found[k], alone(other, ra[k], dec[k], 31))


@pytest.mark.parametrize("side", [8, 32])
def test_tasks_per_chunk_do_not_grow_with_the_image(side):
    data = da.zeros((side * 16, side * 16), chunks=16, dtype="f4")
    header = tan_header(data.shape)
    image = make_image(
        data, mask=data > 1, sigma=data + 1, weight=data + 2, segmentation=(data + 3).astype("i4"), header=header
    )
    n = 4 * side**2
    corner = np.random.default_rng(0).integers(-3, side * 16 - 5, (n, 2))
    boxes = np.column_stack([corner, np.full((n, 2), 9)])
    lazy = _cut_lazily(image, image_header(image), np.arange(n), boxes, print)
    (optimized,) = dask.optimize(lazy)
    assert len(dict(optimized.dask)) <= 8 * side**2
    assert len(pickle.dumps(optimized.dask)) < 3000 * side**2


def test_the_graph_holds_the_header_once():
    header = tan_header(SHAPE)
    for n in range(2000):
        header[f"HIERARCH KEY{n}"] = n
    image = five_planes(chunks=(20, 20), header=header)
    boxes = np.column_stack([np.random.default_rng(0).integers(0, 180, (500, 2)), np.full((500, 2), 21)])
    lazy = _cut_lazily(
        image.drop_vars(("mask", "sigma", "weight", "segmentation")), header, np.arange(500), boxes, print
    )
    size = len(header.tostring())
    without = _cut_lazily(five_planes(chunks=(20, 20)), tan_header(SHAPE), np.arange(500), boxes, print)
    assert len(pickle.dumps(lazy.dask)) < len(pickle.dumps(without.dask)) + 4 * size
