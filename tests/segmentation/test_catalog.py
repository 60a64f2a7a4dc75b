import pickle
import warnings
from fractions import Fraction

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.segmentation import SegmentationImage, SourceCatalog
from strategies import scenes

import galprep_dask
from galprep_dask.blockwise import merge_blocks_at
from galprep_dask.errors import ImageShapeError, MissingWCSError, NoSourcesWarning, ParameterError
from galprep_dask.segmentation import Segmentation, catalog, detect_sources, smooth, source_catalog
from galprep_dask.segmentation._kernels.merge import join_tables
from galprep_dask.segmentation._kernels.pixel_sums import finish

COLUMNS = [
    "label", "x_centroid", "y_centroid", "bbox_xmin", "bbox_xmax", "bbox_ymin", "bbox_ymax", "area", "segment_area",
    "equivalent_radius", "semimajor_axis", "semiminor_axis", "orientation", "eccentricity", "ellipticity",
    "elongation", "fwhm", "covariance_xx", "covariance_xy", "covariance_yy", "ellipse_cxx", "ellipse_cxy",
    "ellipse_cyy", "min_value", "max_value", "min_value_xindex", "min_value_yindex", "max_value_xindex",
    "max_value_yindex", "segment_flux", "segment_flux_err",
]  # fmt: skip


def assert_as_photutils(found, image, labels, **planes):
    """Compare every column with that of photutils on the whole array."""
    columns = [name for name in found.colnames if name != "sky_centroid"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SourceCatalog(image, SegmentationImage(labels), **planes).to_table(columns=columns)
    # Where rounding made a determinant negative, photutils 3.0 has no axes for pixels in a line.
    in_a_line = np.zeros(len(found), bool)
    if "semimajor_axis" in columns:
        in_a_line = np.isnan(expected["semimajor_axis"]) & ~np.isnan(found["semimajor_axis"])
        assert (found["semiminor_axis"][in_a_line].value < 0.2888).all()  # a pixel's own width, sqrt(1/12)
    for name in columns:
        one, other = found[name], expected[name]
        assert getattr(one, "unit", None) == getattr(other, "unit", None), name
        one, other = np.asarray(one, "f8"), np.asarray(other, "f8")
        if name in catalog._SHAPES:
            one, other = one[~in_a_line], other[~in_a_line]
        if name == "orientation":
            one, other = (one - other + 90) % 180, np.where(np.isnan(other), np.nan, 90)
        scale = np.nanmax(np.abs(np.asarray(image)), initial=1.0, where=np.isfinite(image)) if "flux" in name else 1.0
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9 * scale, err_msg=name)


@pytest.mark.parametrize("is_measured", [False, True])
def test_units_are_those_of_photutils(is_measured):
    y, x = np.mgrid[:40, :50]
    image = np.exp(-((x - 18.5) ** 2 / 18 + (y - 12) ** 2 / 8)).astype("f4") << u.Jy
    error = np.full(image.shape, 0.1) << u.Jy
    if is_measured:
        found = detect_sources(image, 0.01 * u.Jy, measure=image, error=error)
    else:
        found = (image.value > 0.01).astype(np.int32)
    labels = np.asarray(found)
    columns = [*COLUMNS, "kron_flux", "kron_flux_err"]
    catalog = source_catalog(image, found, error=error, columns=columns)
    assert catalog["segment_flux"].unit == catalog["kron_flux_err"].unit == catalog["max_value"].unit == u.Jy
    assert_as_photutils(catalog, image, labels, error=error)
    assert_as_photutils(source_catalog(image, found, convolved_data=2 * image), image, labels, convolved_data=2 * image)
    for planes in ({"error": error.value}, {"error": error.to(u.mJy)}, {"convolved_data": image.value}):
        with pytest.raises(ValueError, match="same units"):
            SourceCatalog(image, SegmentationImage(labels), **planes)
        with pytest.raises(ParameterError, match="expected one unit for all"):
            source_catalog(image, found, **planes)


@settings(max_examples=60)
@given(scenes(min_side=3), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_columns_are_those_of_photutils(scene, convolved, masked, seed):
    image, mask, chunks = scene
    rng = np.random.default_rng(seed)
    image = np.where(rng.random(image.shape) < 0.03, np.nan, image)
    labels = np.where(rng.random(image.shape) < 0.9, np.asarray(found_in(smooth(image, 2.0))), 0)
    if not labels.any():
        return
    labels = labels * 3  # not consecutive, and no longer connected
    planes = {"error": rng.random(image.shape)}
    if convolved:
        planes["convolved_data"] = smooth(image, 2.0) - 0.3  # negative in places
    if masked:
        planes["mask"] = mask
    lazy = da.from_array(image, chunks=chunks, name=False)
    assert_as_photutils(source_catalog(lazy, labels, columns=COLUMNS, **planes), image, labels, **planes)


def found_in(image, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoSourcesWarning)
        return detect_sources(image, 0.3, *args, **kwargs)


@settings(max_examples=40)
@given(scenes(min_side=3), st.booleans(), st.booleans())
def test_sums_taken_at_detection_are_those_taken_afterwards(scene, masked, convolved):
    image, mask, chunks = scene
    lazy = da.from_array(image, chunks=chunks, name=False)
    mask = mask if masked else None
    error = da.full_like(lazy, 0.5)
    smoothed = smooth(lazy, 2.0)
    planes = {"mask": mask, "error": error, "convolved_data": smoothed if convolved else None}
    found = found_in(smoothed, 3, measure=lazy, **planes)
    assert found.measured_already(lazy, **planes)
    at_once = source_catalog(lazy, found, **planes)
    afterwards = source_catalog(lazy, np.asarray(found), **planes)
    assert at_once.colnames == afterwards.colnames
    for name in at_once.colnames:
        assert at_once[name].dtype == afterwards[name].dtype
        np.testing.assert_array_equal(np.asarray(at_once[name]), np.asarray(afterwards[name]), err_msg=name)
    if len(at_once):
        planes = {name: None if plane is None else np.asarray(plane) for name, plane in planes.items()}
        assert_as_photutils(at_once, image, np.asarray(found), **planes)


def test_nothing_is_computed_where_the_sums_are_known(no_compute):
    image = da.random.default_rng(0).normal(0, 1, (80, 90), chunks=30)
    mask = image > 2.5
    found = detect_sources(smooth(image, 2.0), 0.4, mask=mask, measure=image)
    plane = xr.DataArray(image, dims=("y", "x"))
    with no_compute():
        assert len(source_catalog(image, found)) == found.n_labels > 10
        assert len(source_catalog(plane, found, mask=mask)) == found.n_labels
    for other in ({"data": image + 0}, {"mask": image > 3}, {"convolved_data": image}, {"error": image}):
        with no_compute(), pytest.raises(AssertionError):
            source_catalog(**{"data": image, "segmentation": found, **other})
    smoothed = smooth(image, 2.0)
    found = detect_sources(smoothed, 0.4, measure=image, convolved_data=smoothed)
    with no_compute():
        assert len(source_catalog(image, found, convolved_data=smoothed)) == found.n_labels
        for other in (None, image, smoothed + 0):
            with pytest.raises(AssertionError):
                source_catalog(image, found, convolved_data=other)


def test_numpy_arrays_are_known_by_identity(no_compute):
    image = np.random.default_rng(0).normal(size=(60, 50))
    found = detect_sources(image, 1.0, 2, measure=image)
    with no_compute():
        assert len(source_catalog(image, found)) == found.n_labels
        with pytest.raises(AssertionError):
            source_catalog(image.copy(), found)


@pytest.mark.parametrize("hidden", [0.0, 1e30, np.nan, -np.inf])
def test_values_under_the_mask_do_not_count(hidden):
    rng = np.random.default_rng(5)
    image, mask = rng.normal(0, 1, (40, 50)), rng.random((40, 50)) < 0.2
    labels = np.asarray(detect_sources(smooth(image, 2.0), 0.3))
    error = rng.random(image.shape)
    expected = source_catalog(image, labels, mask=mask, error=error, columns=COLUMNS)
    found = source_catalog(
        np.where(mask, hidden, image), labels, mask=mask, error=np.where(mask, hidden, error), columns=COLUMNS
    )
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name], expected[name])


def test_degenerate_sources():
    image = np.full((20, 30), 2.0)
    labels = np.zeros(image.shape, int)
    labels[2, 2] = 1  # a pixel
    labels[4, 2:9] = 2  # a row
    labels[2:9, 12] = 3  # a column
    for i in range(6):
        labels[10 + i, 3 + i] = 4  # a diagonal
    labels[2:5, 20:24] = 5  # negative
    image[2:5, 20:24] = -1.0
    labels[10:13, 20:24] = 6  # masked
    mask = labels == 6
    labels[15:18, 20:24] = 7  # negative and positive
    image[15:18, 20:24] = np.arange(-5, 7).reshape(3, 4)
    labels[19, 29], image[19, 29] = 8, np.nan
    for chunks in (30, 7, 1):
        found = source_catalog(da.from_array(image, chunks=chunks), labels, mask=mask, columns=COLUMNS[:-1])
        assert_as_photutils(found, image, labels, mask=mask)
        assert np.isnan(found["area"].value).tolist() == [False] * 5 + [True, False, True]
        assert np.isfinite(found["semimajor_axis"].value).tolist() == [True] * 4 + [False, False, True, False]


def test_an_origin_far_away_changes_positions_only():
    y, x = np.mgrid[:21, :23] - 10.0
    source = np.exp(-(x**2 / 18 + y**2 / 8 + x * y / 20))
    shapes = ["semimajor_axis", "semiminor_axis", "orientation", "segment_flux", "max_value"]
    expected = source_catalog(source, (source > 1e-3).astype(int))
    image = np.zeros((21, 200_000))
    image[:, 199_900:199_923] = source
    for chunks in (50_000, (21, 199_911), (5, 199_911)):
        found = source_catalog(da.from_array(image, chunks=chunks), (image > 1e-3).astype(int))
        assert found["x_centroid"][0] - 199_900 == pytest.approx(expected["x_centroid"][0], abs=1e-9)
        for name in shapes:
            np.testing.assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), rtol=1e-10)


def test_one_bright_pixel_at_the_end_of_a_trail_across_many_blocks():
    image = np.full((3, 20_000), 1e-9)
    image[1, -2], image[1, -4] = 1e4, 2e4
    labels = np.ones(image.shape, int)
    for chunks in (20_000, 1000, (2, 333)):
        assert_as_photutils(source_catalog(da.from_array(image, chunks=chunks), labels), image, labels)


def test_dtypes():
    rng = np.random.default_rng(2)
    image = rng.normal(100, 20, (40, 40))
    labels = np.asarray(detect_sources(image, 110.0, 3))
    for dtype, kept in {"f4": "f4", ">f4": "f4", "f8": "f8", ">i2": "f8", "u1": "f8"}.items():
        pixels = image.astype(dtype)
        pixels.flags.writeable = labels.flags.writeable = False
        found = source_catalog(pixels, labels)
        assert found["label"].dtype == np.int32
        assert found["min_value"].dtype == kept
        assert found["segment_flux"].dtype == np.float64
        assert_as_photutils(found, pixels.astype("f8"), labels)


def test_sky_coordinates():
    image = np.random.default_rng(0).normal(0, 1, (50, 60))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [30, 25]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    found = detect_sources(smooth(image, 2.0), 0.5)
    for how in (wcs, wcs.to_header(), wcs.to_header().tostring(sep="\n", endcard=False, padding=False)):
        table = source_catalog(image, found, wcs=how)
        assert table.colnames[3] == "sky_centroid"
        assert isinstance(table["sky_centroid"], SkyCoord)
        expected = wcs.pixel_to_world(table["x_centroid"], table["y_centroid"])
        assert table["sky_centroid"].separation(expected).arcsec.max() < 1e-9
    with pytest.raises(MissingWCSError):
        source_catalog(image, found, wcs="SIMPLE  =                    T")
    opened = galprep_dask.open_image(image).assign(sigma=(("y", "x"), np.ones_like(image)))
    assert "sky_centroid" not in opened.galprep.source_catalog(found).colnames
    opened.attrs["header"] = wcs.to_header().tostring(sep="\n", endcard=False, padding=False)
    table = opened.galprep.source_catalog(found)
    assert {"sky_centroid", "segment_flux_err"} <= set(table.colnames)
    np.testing.assert_allclose(table["segment_flux_err"] ** 2, table["area"].value)


APERTURES = ["kron_radius", "kron_flux", "kron_flux_err", "x_centroid_win", "y_centroid_win", "gini", "perimeter"]


@pytest.mark.parametrize("method", ["correct", "mask", "none"])
@pytest.mark.parametrize("chunks", [300, 64, (37, 101)])
def test_apertures_are_those_of_photutils_on_the_whole_array(method, chunks):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:150, :180]
    image = rng.normal(0, 0.05, y.shape)
    for _ in range(40):
        width, height = rng.uniform(1, 4, 2)
        x0, y0 = rng.uniform(0, 180), rng.uniform(0, 150)
        image += rng.uniform(1, 9) * np.exp(-0.5 * (((x - x0) / width) ** 2 + ((y - y0) / height) ** 2))
    image[rng.random(image.shape) < 0.01] = np.nan
    mask, error = rng.random(image.shape) < 0.02, rng.uniform(0.04, 0.06, image.shape)
    labels = np.asarray(detect_sources(smooth(image, 2.0, mask), 0.2)) * 5
    image.flags.writeable = mask.flags.writeable = error.flags.writeable = labels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SourceCatalog(
            image, SegmentationImage(labels), error=error, mask=mask, aperture_mask_method=method
        )
        radius = expected.flux_radius(0.5)
        expected = expected.to_table(columns=["label", *APERTURES])
    assert len(expected) > 15
    found = source_catalog(
        da.from_array(image, chunks=chunks), labels, error=error, mask=mask, aperture_mask_method=method,
        columns=["label", *APERTURES, "flux_radius"],
    )  # fmt: skip
    for name in APERTURES:
        assert getattr(found[name], "unit", None) == getattr(expected[name], "unit", None)
        np.testing.assert_allclose(
            np.asarray(found[name]), np.asarray(expected[name]), rtol=1e-6, atol=1e-9, err_msg=name
        )
    np.testing.assert_allclose(found["flux_radius"].value, radius.value, rtol=1e-6)


def test_apertures_of_sources_without_a_shape_are_nan():
    image, labels = np.ones((30, 40)), np.zeros((30, 40), int)
    labels[3:9, 4:12], labels[20:25, 20:30] = 1, 2
    image[3:9, 4:12] = -1.0
    found = source_catalog(da.from_array(image, chunks=13), labels, columns=["kron_flux", "flux_radius", "gini"])
    assert np.isnan(found["kron_flux"]).tolist() == [True, False]
    assert np.isnan(found["flux_radius"].value).tolist() == [True, False]
    empty = source_catalog(image, np.zeros_like(labels), columns=["kron_radius", "kron_flux"])
    assert (len(empty), empty["kron_radius"].unit.to_string()) == (0, "pix")


def test_no_sources():
    empty = source_catalog(np.zeros((10, 12)), np.zeros((10, 12), int), columns=COLUMNS, error=np.ones((10, 12)))
    assert len(empty) == 0
    image = np.zeros((10, 12))
    image[3, 4] = 1.0
    one = source_catalog(image, (image > 0).astype(int), columns=COLUMNS, error=image)
    for name in COLUMNS:
        assert getattr(empty[name], "unit", None) == getattr(one[name], "unit", None)
        assert empty[name].dtype == one[name].dtype, name
    with pytest.warns(NoSourcesWarning):
        found = detect_sources(image, 5.0, measure=image)
    assert len(source_catalog(image, found)) == 0


def test_few_tasks_a_chunk_however_many_chunks(monkeypatch):
    for blocks in (8, 32):
        built = []

        def keep(*these, built=built, **how):
            built.append(merge_blocks_at(*these, **how))
            return built[-1]

        monkeypatch.setattr(catalog, "merge_blocks_at", keep)
        image = da.eye(blocks * 12, chunks=12)
        labels = (image > 0).astype(np.int32)
        table = source_catalog(image, labels, mask=image > 1, error=image, convolved_data=image)
        assert table["area"].value.tolist() == [blocks * 12]
        graph = built[0].__dask_optimize__(built[0].__dask_graph__(), built[0].__dask_keys__())
        assert len(dict(graph)) <= 8 * blocks**2
        assert len(pickle.dumps(built[0])) < 1000 * blocks**2


def test_lazy_labels_and_given_ones_make_the_same_table():
    image = np.random.default_rng(8).normal(size=(50, 60))
    found = detect_sources(da.from_array(image, chunks=17), 0.5, 4)
    one = source_catalog(da.from_array(image, chunks=(9, 60)), found)
    other = source_catalog(image, Segmentation(np.asarray(found)))
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


def test_errors():
    image, labels = np.ones((10, 12)), np.ones((10, 12), int)
    for name in ("error", "mask", "convolved_data"):
        with pytest.raises(ImageShapeError, match=f"{name} has shape"):
            source_catalog(image, labels, **{name: np.ones((12, 10))})
    with pytest.raises(ImageShapeError, match="segmentation has shape"):
        source_catalog(image, labels.T)
    with pytest.raises(ParameterError, match="'flux'"):
        source_catalog(image, labels, columns=["label", "flux"])
    with pytest.raises(ParameterError, match="error= is needed"):
        source_catalog(image, labels, columns=["segment_flux_err"])
    with pytest.raises(ParameterError, match="wcs= is needed"):
        source_catalog(image, labels, columns="sky_centroid")
    with pytest.raises(ParameterError, match="aperture_mask_method"):
        source_catalog(image, labels, aperture_mask_method="blank")
    with pytest.raises(ImageShapeError, match="measure has shape"):
        detect_sources(image, 0.5, measure=image.T)
    with pytest.raises(ImageShapeError, match="convolved_data has shape"):
        detect_sources(image, 0.5, measure=image, convolved_data=image.T)


def assert_same_bits(found, expected):
    for name in expected.colnames:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]), err_msg=name)


@settings(max_examples=35)
@given(scenes(min_side=2), st.sampled_from(["f4", "f8"]), st.sampled_from([0, 3, 20, 150]), st.integers(0, 2**32 - 1))
def test_no_bit_depends_on_chunks(scene, dtype, decades, seed):
    image, mask, chunks = scene
    rng = np.random.default_rng(seed)
    decades = min(decades, 18 if dtype == "f4" else decades)
    labels = np.asarray(found_in(smooth(image, 1.5))) % 4  # pieces far from each other are one source

    def scaled(values):  # of all magnitudes, and of both signs
        return (values * 10.0 ** rng.uniform(-decades, decades, image.shape)).astype(dtype)

    image, error, shapes = scaled(image), scaled(np.ones(image.shape)), scaled(image)
    for values in (image, error, shapes):
        values[rng.random(values.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0])
    planes = {"mask": mask, "error": error, "convolved_data": shapes if seed % 2 else None}
    with np.errstate(over="ignore", invalid="ignore"):
        whole = source_catalog(image, labels, columns=COLUMNS, **planes)
        found = source_catalog(da.from_array(image, chunks=chunks, name=False), labels, columns=COLUMNS, **planes)
    assert_same_bits(found, whole)


@settings(max_examples=30)
@given(scenes(min_side=3), st.booleans())
def test_no_bit_of_what_is_summed_at_detection_depends_on_chunks(scene, convolved):
    image, mask, chunks = scene
    image = image.astype("f4")
    lazy = da.from_array(image, chunks=chunks, name=False)
    tables = []
    for pixels in (lazy, image):
        planes = {"mask": mask, "error": pixels * 0.3, "convolved_data": smooth(pixels, 2.0) if convolved else None}
        found = found_in(smooth(pixels, 2.0), 3, measure=pixels, **planes)
        tables.append(source_catalog(pixels, found, columns=COLUMNS, **planes))
    assert_same_bits(*tables)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_sums_are_those_of_fractions(dtype):
    rng = np.random.default_rng(7)
    image = (rng.normal(1, 1, (6, 130)) * 10.0 ** rng.uniform(-15, 15, (6, 130))).astype(dtype)
    far = 2_000_000  # the squares of such positions have more digits than a float64
    wide = np.lib.stride_tricks.as_strided(np.zeros((1, 1), dtype), (6, far), (0, 0))
    pixels = da.concatenate([da.from_array(wide, chunks=(6, 500_000)), da.from_array(image, chunks=(4, 50))], axis=1)
    labels = (pixels != 0).astype(np.int32)
    found = source_catalog(pixels, labels, columns=["segment_flux", "x_centroid", "y_centroid", "covariance_xx"])
    exact = [[Fraction(float(value)) for value in row] for row in image]
    assert found["segment_flux"][0] == float(sum(map(sum, exact)))
    light = {(y, x): value for y, row in enumerate(exact) for x, value in enumerate(row) if value > 0}
    weight = sum(light.values())
    x, y = (sum(at[axis] * value for at, value in light.items()) / weight for axis in (1, 0))
    xx = sum((at[1] - x) ** 2 * value for at, value in light.items()) / weight
    assert found["x_centroid"][0] == pytest.approx(float(far + x), rel=3e-16)
    assert found["y_centroid"][0] == pytest.approx(float(y), rel=3e-16)
    assert found["covariance_xx"][0].value == pytest.approx(float(xx), rel=1e-14)


def test_the_order_in_which_parts_are_united_does_not_matter():
    rng = np.random.default_rng(3)
    image = (rng.normal(0, 1, (24, 30)) * 10.0 ** rng.uniform(-12, 12, (24, 30))).astype("f4")
    labels = rng.integers(0, 5, image.shape).astype(np.int32)
    planes = {"names": ["labels", "image"], "nx_image": 30}
    whole = finish(catalog._measured_block(labels, image, origin=(0, 0), **planes).sums)
    parts = [
        catalog._measured_block(labels[y : y + 6, x : x + 5], image[y : y + 6, x : x + 5], origin=(y, x), **planes)
        for y in range(0, 24, 6) for x in range(0, 30, 5)
    ]  # fmt: skip
    for _ in range(10):
        left = [parts[k] for k in rng.permutation(len(parts))]
        while len(left) > 1:
            some = rng.integers(2, 5)
            left = [*left[some:], join_tables(left[:some])]
        for one, other in zip(finish(left[0].sums), whole, strict=True):
            np.testing.assert_array_equal(one, other)


def test_sums_beyond_the_largest_float_are_infinite():
    largest = np.finfo("f8").max
    image = np.array([[largest, largest, -largest, 0, 5e-324, 5e-324, 0, largest, largest]])
    labels = np.array([[1, 1, 1, 0, 2, 2, 0, 3, 3]])
    error = np.array([[1e200, 1.0, np.nan, 0, 3.0, 4.0, 0, 1e200, 1.0]])
    for chunks in (9, 1):
        found = source_catalog(da.from_array(image, chunks=chunks), labels, error=error)
        assert found["segment_flux"].tolist() == [largest, 1e-323, np.inf]
        assert found["x_centroid"].tolist() == [0.5, 4.5, 7.5]
        assert np.isnan(found["segment_flux_err"][0])
        assert found["segment_flux_err"][1:].tolist() == [5.0, np.inf]


def test_no_bit_of_apertures_depends_on_chunks():
    rng = np.random.default_rng(3)
    image = smooth(rng.normal(0, 1, (150, 180)), 3.0)
    labels = np.asarray(detect_sources(image, 0.2))
    names = ["kron_flux", "kron_radius", "flux_radius", "x_centroid_win", "y_centroid_win", "gini"]
    whole = source_catalog(image, labels, columns=names)
    assert len(whole) > 15
    for chunks in (64, (37, 101)):
        assert_same_bits(source_catalog(da.from_array(image, chunks=chunks), labels, columns=names), whole)


def test_an_image_too_wide_for_exact_sums_is_refused():
    image = da.zeros((1, 2**21 + 1), chunks=(1, 2**19))
    with pytest.raises(ImageShapeError, match="up to 2097152 pixels a side"):
        source_catalog(image, image.astype(np.int32))
    with pytest.raises(ImageShapeError, match="up to 2097152 pixels a side"):
        detect_sources(image, 0.5, measure=image)
