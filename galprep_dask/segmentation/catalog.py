"""The catalogue: positions, shapes and fluxes of all sources, from sums over the blocks."""

from __future__ import annotations

import dask.array as da
import numpy as np
from astropy import units as u
from astropy.table import QTable

from galprep_dask.arrays import ImageLike, as_image, as_mask, check_same_shape, take_off_unit
from galprep_dask.blockwise import merge_blocks_at
from galprep_dask.errors import ParameterError
from galprep_dask.fused import compute_now
from galprep_dask.image import celestial_wcs
from galprep_dask.segmentation._kernels.label import components_of_labels, runs_of_labels
from galprep_dask.segmentation._kernels.merge import Table, join_tables
from galprep_dask.segmentation._kernels.moments import measure_runs
from galprep_dask.segmentation._kernels.pixel_sums import finish
from galprep_dask.segmentation.apertures import PER_SOURCE, measure_apertures
from galprep_dask.segmentation.detect import check_measurable
from galprep_dask.segmentation.segmentation_image import Segmentation, as_segmentation

__all__ = ["source_catalog"]

_DEFAULT = (
    "label", "x_centroid", "y_centroid", "sky_centroid", "bbox_xmin", "bbox_xmax", "bbox_ymin", "bbox_ymax", "area",
    "semimajor_axis", "semiminor_axis", "orientation", "eccentricity", "ellipticity", "elongation", "fwhm",
    "min_value", "max_value", "segment_flux", "segment_flux_err",
)  # fmt: skip
#: What photutils makes of the central moments.
_SHAPES = (
    "semimajor_axis", "semiminor_axis", "orientation", "eccentricity", "ellipticity", "elongation", "fwhm",
    "covariance_xx", "covariance_xy", "covariance_yy", "ellipse_cxx", "ellipse_cxy", "ellipse_cyy",
)  # fmt: skip
_MORE = (
    "segment_area", "equivalent_radius", "min_value_xindex", "min_value_yindex", "max_value_xindex",
    "max_value_yindex",
)  # fmt: skip
#: Columns in the unit of the image.
_OF_DATA = ("min_value", "max_value", "segment_flux", "segment_flux_err", "kron_flux", "kron_flux_err")
#: Sources whose shapes are worked out at a time, so that intermediate arrays stay small beside the table.
_BATCH = 1 << 17


def source_catalog(
    data: ImageLike,
    segmentation: Segmentation | ImageLike,
    *,
    convolved_data: ImageLike | None = None,
    error: ImageLike | None = None,
    mask: ImageLike | None = None,
    wcs=None,
    columns: list[str] | tuple[str, ...] | None = None,
    aperture_mask_method: str = "correct",
) -> QTable:
    """
    Measure all sources of a segmentation.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Sky-subtracted image in any unit. Not modified. If it is a Quantity, so are ``convolved_data`` and ``error``,
        of the same unit, and values and fluxes of the table.
    segmentation : Segmentation or (ny, nx) integer array
        What was found, 0 = sky. Labels need not be consecutive, nor their pixels connected.
    convolved_data : (ny, nx) array, optional
        The smoothed image, for centroids and shapes to be taken of it as SExtractor does; by default ``data`` is.
    error : (ny, nx) array, optional
        1-sigma uncertainty in the unit of ``data``, for ``segment_flux_err``.
    mask : (ny, nx) bool array, optional
        True marks bad pixels: nothing depends on what they hold. Non-finite pixels of ``data`` always are bad.
    wcs : WCS, Header or str, optional
        Sky coordinates, as an object or as the header that they are built from, for ``sky_centroid``.
    columns : list of str, optional
        Columns wanted, in order. Notes lists them.
    aperture_mask_method : {"correct", "mask", "none"}
        What happens to pixels of neighbours in apertures: replaced by those opposite, left out, or nothing.

    Returns
    -------
    QTable
        A row for each source, in the order of labels, as ``photutils.segmentation.SourceCatalog`` gives it on the
        whole array. Without sources it is empty.

    Raises
    ------
    ImageShapeError
        Shapes differ, or the image has more than 2097152 pixels a side.
    ParameterError
        A column is unknown, or needs what was not given; units differ.
    MissingWCSError
        ``wcs`` is a header without sky coordinates.

    Notes
    -----
    By default: ``label``, ``x_centroid``, ``y_centroid`` (pixels, 0-based), ``sky_centroid`` (where ``wcs`` is given),
    ``bbox_xmin``, ``bbox_xmax``, ``bbox_ymin``, ``bbox_ymax`` (of the segment, inclusive), ``area`` (good pixels),
    ``semimajor_axis``, ``semiminor_axis`` (1 sigma, pixels), ``orientation`` (degrees, x axis to major axis),
    ``eccentricity``, ``ellipticity``, ``elongation``, ``fwhm``, ``min_value``, ``max_value``, ``segment_flux``,
    ``segment_flux_err`` (where ``error`` is given). Further ``segment_area`` (all pixels), ``equivalent_radius``,
    ``min_value_xindex``, ``min_value_yindex``, ``max_value_xindex``, ``max_value_yindex``, ``covariance_xx``,
    ``covariance_xy``, ``covariance_yy``, ``ellipse_cxx``, ``ellipse_cxy``, ``ellipse_cyy``.

    Where asked for, photutils measures each source on a region that holds all pixels that it looks at, in parallel and
    far slower than the rest: ``kron_radius``, ``kron_flux``, ``kron_flux_err``, ``flux_radius`` (of half the Kron
    flux), ``x_centroid_win``, ``y_centroid_win``, ``gini``, ``perimeter``. A source that would need more than 67
    million pixels has NaN there.

    The pixels are read once, and not at all where :func:`detect_sources` took the sums already (``measure=data``, and
    the same ``error`` and ``convolved_data``). The table is the same to the bit for every chunking: sums over pixels
    are exact, whatever the magnitudes of values and positions, and are rounded once, moments about the pixel nearest to
    the centroid. Moments become axes and angles by the code of the installed photutils, whose conventions differ from
    version to version. One difference: where the positive pixels of a source lie in a line, rounding decides whether
    photutils 3.0 gives axes or NaN; here there always are axes.

    Examples
    --------
    >>> y, x = np.mgrid[:30, :40]
    >>> image = np.exp(-((x - 18.5) ** 2 / 18 + (y - 12) ** 2 / 8))
    >>> catalog = source_catalog(image, (image > 0.001).astype(int))
    >>> round(float(catalog["x_centroid"][0]), 3), round(float(catalog["semimajor_axis"][0].value), 1)
    (18.5, 3.0)
    """
    segmentation = as_segmentation(segmentation)
    planes = {"mask": mask, "error": error, "convolved_data": convolved_data}
    measured_already = segmentation.measured_already(data, **planes)
    (data, convolved_data, error), unit = take_off_unit(data=data, convolved_data=convolved_data, error=error)
    image = as_image(data)
    check_same_shape(segmentation, image.shape, "segmentation")
    check_measurable(image.shape)
    if isinstance(wcs, str) or (wcs is not None and hasattr(wcs, "cards")):
        wcs = celestial_wcs(wcs)
    columns = _checked(columns, error is not None, wcs is not None)
    if aperture_mask_method not in ("correct", "mask", "none"):
        raise ParameterError(f"aperture_mask_method={aperture_mask_method!r}; expected 'correct', 'mask' or 'none'.")
    planes = _planes(image, segmentation.data, convolved_data, error, mask)
    if measured_already:
        table = segmentation._table
    else:
        tables = merge_blocks_at(
            _measured_block, join_tables, *planes.values(), names=list(planes), nx_image=image.shape[1]
        )
        table = compute_now(tables)[0, 0]
        table = table._replace(sums=finish(table.sums))
    catalog = _catalog(table, columns, wcs, planes, aperture_mask_method)
    for name in () if unit is None else set(_OF_DATA).intersection(columns):
        catalog[name] = u.Quantity(catalog[name], unit)
    return catalog


def _checked(columns, has_error: bool, has_wcs: bool) -> list[str]:
    missing = {
        "segment_flux_err": ("error", has_error), "kron_flux_err": ("error", has_error),
        "sky_centroid": ("wcs", has_wcs),
    }  # fmt: skip
    if columns is None:
        return [name for name in _DEFAULT if name not in missing or missing[name][1]]
    columns = [columns] if isinstance(columns, str) else list(columns)
    known = dict.fromkeys([*_DEFAULT, *_SHAPES, *_MORE, *PER_SOURCE])
    for name in columns:
        if name not in known:
            raise ParameterError(f"columns has {name!r}; expected some of {', '.join(known)}.")
        if name in missing and not missing[name][1]:
            raise ParameterError(f"columns has {name!r}, for which {missing[name][0]}= is needed.")
    return columns


def _planes(image: da.Array, labels: da.Array, convolved_data, error, mask) -> dict[str, da.Array]:
    planes = {"labels": labels.rechunk(image.chunks), "image": image}
    for name, plane in {"convolved_data": convolved_data, "error": error}.items():
        if plane is not None:
            check_same_shape(plane, image.shape, name)
            planes[name] = as_image(plane, name, chunks=image.chunks)
    if mask is not None:
        planes["mask"] = as_mask(mask, image)
    return planes


def _measured_block(*blocks, names, nx_image, origin) -> Table:
    planes = dict(zip(names, blocks, strict=True))
    runs, label = runs_of_labels(planes["labels"])
    labels, components = components_of_labels(runs, label)
    sums = measure_runs(
        runs, components, planes["image"], planes.get("convolved_data"), planes.get("error"), planes.get("mask"),
        origin, nx_image,
    )  # fmt: skip
    return Table(labels, components.area, components.limits_at(origin), sums)


# From sums to columns --------------------------------------------------------------------------------------


def _catalog(table: Table, columns: list[str], wcs, planes: dict[str, da.Array], method: str) -> QTable:
    image = planes["image"]
    dtype = image.dtype if image.dtype.kind == "f" else np.dtype(np.float64)
    makers = _makers(table, dtype, image.shape[1])
    if "sky_centroid" in columns:
        makers["sky_centroid"] = lambda: wcs.pixel_to_world(makers["x_centroid"](), makers["y_centroid"]())
    apertures = [name for name in columns if name in PER_SOURCE]
    shapes = [name for name in _SHAPES if name in columns or (apertures and name == "semimajor_axis")]
    made = _shapes(table, shapes)
    if apertures:
        made |= measure_apertures(
            planes, table.labels, table.limits, makers["x_centroid"](), makers["y_centroid"](),
            made["semimajor_axis"].value, apertures, method,
        )  # fmt: skip
    return QTable({name: made[name] if name in made else makers[name]() for name in columns})


def _makers(table: Table, dtype, nx_image: int) -> dict:
    sums, limits = table.sums, table.limits.astype(np.int64)
    nothing, dark = sums.n_good == 0, ~(sums.weight > 0)

    def where_good(values, bad=nothing):
        return np.where(bad, np.nan, values)

    def area():
        return where_good(sums.n_good) * u.pix**2

    makers = {
        "label": lambda: table.labels.copy(),
        "x_centroid": lambda: where_good(sums.x, dark),
        "y_centroid": lambda: where_good(sums.y, dark),
        "bbox_xmin": lambda: limits[:, 0],
        "bbox_xmax": lambda: limits[:, 1] - 1,
        "bbox_ymin": lambda: limits[:, 2],
        "bbox_ymax": lambda: limits[:, 3] - 1,
        "area": area,
        "segment_area": lambda: table.area * u.pix**2,
        "equivalent_radius": lambda: np.sqrt(area() / np.pi),
        "min_value": lambda: where_good(sums.lowest).astype(dtype),
        "max_value": lambda: where_good(sums.highest).astype(dtype),
        "segment_flux": lambda: where_good(sums.flux),
        "segment_flux_err": lambda: where_good(np.sqrt(sums.variance)),
    }
    for name, at in {"min_value": sums.lowest_at, "max_value": sums.highest_at}.items():
        makers[f"{name}_xindex"] = lambda at=at: where_good(at % nx_image) if nothing.any() else at % nx_image
        makers[f"{name}_yindex"] = lambda at=at: where_good(at // nx_image) if nothing.any() else at // nx_image
    return makers


def _shapes(table: Table, names: list[str]) -> dict:
    if not names:
        return {}
    parts = [_shapes_of_batch(table, names, begin) for begin in range(0, max(len(table.labels), 1), _BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _shapes_of_batch(table: Table, names: list[str], begin: int) -> dict:
    """
    Let the installed photutils make shapes out of our central moments.

    Its catalogue takes moments that are set as if it had summed them itself; the image that it is made of has a pixel
    for each source, and is not looked at.
    """
    from photutils.segmentation import SegmentationImage, SourceCatalog

    weight, xx, xy, yy = (
        values[begin : begin + _BATCH] for values in (table.sums.weight, table.sums.xx, table.sums.xy, table.sums.yy)
    )
    n = max(len(weight), 1)  # photutils makes no catalogue without sources, but the units of one are wanted
    moments = np.full((n, 4, 4), np.nan)
    # Of pixels in a line, rounding must make neither a negative determinant, for which there are no axes, nor a
    # direction out of nothing.
    xx, yy, xy = (np.where(np.abs(values) > 1e-13 * (weight + xx + yy), values, 0.0) for values in (xx, yy, xy))
    most = np.sqrt(xx * yy) * (1 - 1e-12)
    xy = np.clip(xy, -most, most)
    good = np.flatnonzero(weight > 0)
    for (i, j), values in {(0, 0): weight, (0, 2): xx, (2, 0): yy, (1, 1): xy}.items():
        moments[good, i, j] = values[good]
    pixels = SegmentationImage(np.arange(1, n + 1, dtype=np.int32)[None])
    pixels.slices = [None] * n  # slow to find, and not looked at either
    catalog = SourceCatalog(np.ones((1, n)), pixels)
    catalog.moments_central = moments
    with np.errstate(invalid="ignore"):
        return {name: getattr(catalog, name)[: len(weight)] for name in names}
