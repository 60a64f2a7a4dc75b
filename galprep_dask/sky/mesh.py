"""A sky from the statistics of boxes, joined by a spline: the way of SExtractor and of photutils' ``Background2D``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, product

import dask.array as da
import numpy as np
from astropy.io import fits
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from scipy.ndimage import spline_filter

from galprep_dask.arrays import CHUNK_SIDE, ImageLike, as_image, as_mask, is_number, is_whole
from galprep_dask.blockwise import as_object, block_bounds, block_edges, collect_by_rows
from galprep_dask.errors import NoGoodPixelsError, ParameterError
from galprep_dask.fused import compute_now
from galprep_dask.sky._kernels.boxes import boxes_of_block, join_boxes
from galprep_dask.sky._kernels.spline import evaluate_spline, median_filter, subtract_spline

__all__ = ["MeshSky", "fit_mesh_sky"]


@dataclass(frozen=True)
class MeshSky:
    """
    A sky given by a level in every box of a mesh, and a bicubic spline through them.

    Attributes
    ----------
    mesh, rms_mesh : (boxes along y, boxes along x) float64 array
        Sky, and standard deviation of the clipped pixels, in every box; filled in where a box had too few pixels,
        and median-filtered.
    n_pixels_mesh : int array of the same shape
        Pixels in every box that masking and clipping left.
    rms : float
        Median of ``rms_mesh``.
    box_size : (int, int)
        Rows and columns of a box.
    shape : (int, int)
        Shape of the image that it was fitted to.
    filter_size : (int, int)
        Boxes of the median filter along y and x.
    estimator : str
        How the level of a box was taken from its pixels.
    """

    mesh: np.ndarray = field(repr=False)
    rms_mesh: np.ndarray = field(repr=False)
    n_pixels_mesh: np.ndarray = field(repr=False)
    rms: float
    box_size: tuple[int, int]
    shape: tuple[int, int]
    filter_size: tuple[int, int]
    estimator: str

    def evaluate(self, shape: tuple[int, int] | None = None, chunks=(CHUNK_SIDE, CHUNK_SIDE)) -> da.Array:
        """
        Give the sky as a lazy image.

        Parameters
        ----------
        shape : (ny, nx), optional
            By default that of the image fitted. Past the boxes the level at their edge goes on.
        chunks : optional
            Chunks of the result; a pixel has the same value to the bit in all of them.

        Returns
        -------
        (ny, nx) float64 dask array
        """
        return self._evaluate(self.mesh, shape, chunks)

    def rms_image(self, shape: tuple[int, int] | None = None, chunks=(CHUNK_SIDE, CHUNK_SIDE)) -> da.Array:
        """
        Give the standard deviation of sky pixels as a lazy image.

        Parameters
        ----------
        shape, chunks : optional
            As for :meth:`evaluate`.

        Returns
        -------
        (ny, nx) float64 dask array
        """
        return self._evaluate(self.rms_mesh, shape, chunks)

    def _evaluate(self, mesh: np.ndarray, shape, chunks) -> da.Array:
        shape = self.shape if shape is None else shape
        chunks = da.core.normalize_chunks(chunks, shape, dtype=np.float64)
        coefficients, how = self._spline(mesh)
        return da.blockwise(
            partial(_evaluate_block, **how), "ij", block_bounds(chunks), "ij", coefficients, "mn",
            concatenate=True, align_arrays=False, dtype=np.float64, meta=np.empty((0, 0)),
        )  # fmt: skip

    def subtract_from(self, image: da.Array, dtype) -> da.Array:
        """
        Give an image minus the sky, lazily, without an image of the sky in between.

        Parameters
        ----------
        image : (ny, nx) dask array
            In the unit of the sky.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        (ny, nx) dask array of ``dtype``
            The same to the bit as the difference to :meth:`evaluate`, taken in float64 and rounded once.
        """
        coefficients, how = self._spline(self.mesh)
        return da.blockwise(
            partial(_subtract_from_block, dtype=dtype, **how), "ij",
            image, "ij", block_bounds(image.chunks), "ij", coefficients, "mn",
            concatenate=True, align_arrays=False, dtype=dtype, meta=image._meta.astype(dtype),
        )  # fmt: skip

    def _spline(self, mesh: np.ndarray) -> tuple[da.Array, dict]:
        """Give the coefficients of the spline, and what else its kernels want to know."""
        # The spline is even about the outer edges of the mesh, and so are its coefficients.
        coefficients = np.pad(spline_filter(mesh, order=3, mode="reflect"), 2, mode="symmetric")
        how = {"box_size": self.box_size, "lowest": float(mesh.min()), "highest": float(mesh.max())}
        return da.from_array(coefficients, chunks=-1), how

    def to_header(self) -> fits.Header:
        """Write down as FITS keywords how the sky was found; the mesh itself is too large for a header."""
        return fits.Header(
            [
                ("SKYMODEL", "mesh", "sky model that was subtracted"),
                ("SKYBOXY", self.box_size[0], "[pix] rows of a box"),
                ("SKYBOXX", self.box_size[1], "[pix] columns of a box"),
                ("SKYFILTY", self.filter_size[0], "boxes of the median filter along y"),
                ("SKYFILTX", self.filter_size[1], "boxes of the median filter along x"),
                ("SKYESTIM", self.estimator, "level of the pixels of a box"),
                ("SKYLEV", float(np.median(self.mesh)), "median of the mesh [unit of the image]"),
                ("SKYRMS", self.rms, "rms of source-free pixels"),
            ]
        )


def _evaluate_block(bounds, coefficients, **how) -> np.ndarray:
    y, x = (np.arange(*axis) for axis in bounds)
    return evaluate_spline(y, x, coefficients, **how)


def _subtract_from_block(block, bounds, coefficients, **how) -> np.ndarray:
    y, x = (np.arange(*axis) for axis in bounds)
    return subtract_spline(block, y, x, coefficients, **how)


def _sextractor(mean, median, std):
    # Bertin & Arnouts (1996), section 3.1: the mode where the box is not crowded, and the median where it is.
    mode = np.where(np.abs(mean - median) < 0.3 * std, 2.5 * median - 1.5 * mean, median)
    return np.where(std == 0, mean, mode)


_ESTIMATORS = {
    "sextractor": _sextractor,
    "mode": lambda mean, median, std: 3 * median - 2 * mean,
    "median": lambda mean, median, std: median,
    "mean": lambda mean, median, std: mean,
}


def fit_mesh_sky(
    data: ImageLike,
    mask: ImageLike | None = None,
    *,
    box_size: int | tuple[int, int],
    filter_size: int | tuple[int, int] = 3,
    sigma_clip: float | None = 3.0,
    maxiters: int | None = 10,
    estimator: str = "sextractor",
    exclude_percentile: float = 10.0,
) -> MeshSky:
    """
    Take the sky from the clipped statistics of boxes, as SExtractor and ``photutils.background.Background2D`` do.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels; non-finite pixels are always left out.
    box_size : int or (int, int)
        Rows and columns of a box: larger than the sources, smaller than the structure of the sky. The
        boxes at the upper and right edge are cut short by the end of the image.
    filter_size : int or (int, int)
        Boxes of the median filter that is run over the mesh, odd; 1 filters nothing.
    sigma_clip : float or None
        Pixels further than this many standard deviations from the median of their box are left out. None
        leaves none out.
    maxiters : int or None
        Clippings at most; None goes on until nothing changes.
    estimator : {"sextractor", "median", "mean", "mode"}
        Level of a box. "sextractor" is 2.5 median - 1.5 mean, and the median where mean and median differ by
        0.3 standard deviations or more; "mode" is 3 median - 2 mean.
    exclude_percentile : float
        A box that lacks more than this percentage of its pixels, masked, clipped or past the end of the
        image, does not count. Its level is the mean of the ten nearest boxes that do, weighted by the
        inverse of their distance.

    Returns
    -------
    MeshSky
        In the unit of ``data``; ``evaluate`` gives the sky lazily.

    Raises
    ------
    ImageShapeError
        Shapes differ.
    NoGoodPixelsError
        No box has enough good pixels.
    ParameterError
        The box is larger than the image, the filter is even, or another parameter makes no sense.

    Notes
    -----
    Equal to ``Background2D`` with the same parameters, to rounding; ``Background2D`` keeps the precision of
    the image, and here everything is float64. One difference: photutils 3.0 leaves out a box that lacks exactly
    ``exclude_percentile`` too, contrary to its documentation and to later versions.

    One pass over the image. A block takes the statistics of the boxes inside it, and hands over the
    pixels of those that cross its border. As the pixels of a box are sorted before anything else, the mesh
    is the same to the bit for every chunking.

    References
    ----------
    .. [1] Bertin & Arnouts (1996), A&AS 117, 393.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(50, 1, (200, 300)) + np.linspace(0, 20, 300)
    >>> sky = fit_mesh_sky(image, box_size=50)
    >>> sky.mesh.shape
    (4, 6)
    >>> bool(abs((image - sky.evaluate()).mean().compute()) < 0.05)
    True
    """
    data = as_image(data)
    mask = as_mask(mask, data)
    box_size, filter_size = _as_pair(box_size, "box_size"), _as_pair(filter_size, "filter_size")
    _check(data.shape, box_size, filter_size, sigma_clip, maxiters, estimator, exclude_percentile)
    n_pixels, mean, median, std = join_statistics(
        compute_now(box_statistics(data, mask, box_size, sigma_clip, maxiters))
    )
    needed = (1 - exclude_percentile / 100) * (box_size[0] * box_size[1])
    counts = (n_pixels >= needed) & (n_pixels > 0)
    if not counts.any():
        raise NoGoodPixelsError(
            f"cannot fit the sky: no box of {box_size[0]} x {box_size[1]} pixels has {needed:g} good ones, the best "
            f"has {int(n_pixels.max())}. Check the mask (True marks bad pixels), or raise exclude_percentile."
        )
    mesh, rms_mesh = (
        median_filter(_fill(levels, counts), *filter_size)
        for levels in (_ESTIMATORS[estimator](mean, median, std), std)
    )
    return MeshSky(
        mesh, rms_mesh, n_pixels.astype(np.int64), float(np.median(rms_mesh)), box_size, data.shape, filter_size,
        estimator,
    )  # fmt: skip


def box_statistics(data: da.Array, mask: da.Array | None, box_size, sigma_clip, maxiters) -> da.Array:
    """
    Take the clipped statistics of every box, lazily.

    Parameters
    ----------
    data, mask : (ny, nx) dask arrays
        Image, and True for bad pixels; of the same chunks.
    box_size : (int, int)
        Rows and columns of a box, no more than the image has.
    sigma_clip, maxiters : float or None, int or None
        As for :func:`fit_mesh_sky`.

    Returns
    -------
    (1,) dask array
        What :func:`join_statistics` takes.
    """
    statistics = _box_statistics(
        data, mask, box_size, sigma=np.inf if sigma_clip is None else float(sigma_clip),
        maxiters=0 if sigma_clip is None else -1 if maxiters is None else int(maxiters),
    )  # fmt: skip
    # By rows: blocks that are computed with their neighbours, as a mask of sources is, would wait in great numbers.
    return collect_by_rows(statistics)


def join_statistics(collected: np.ndarray) -> np.ndarray:
    """Give number, mean, median and standard deviation of the clipped pixels of every box, (4, boxes y, boxes x)."""
    return np.block(collected[0].tolist())


def _as_pair(value, name: str) -> tuple[int, int]:
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(pair) != 2 or not all(isinstance(one, int | np.integer) and one >= 1 for one in pair):
        raise ParameterError(f"{name}={value!r}; expected a whole number, 1 or more, or two for y and x.")
    return int(pair[0]), int(pair[1])


def _check(shape, box_size, filter_size, sigma_clip, maxiters, estimator, exclude_percentile) -> None:
    if box_size[0] > shape[0] or box_size[1] > shape[1]:
        raise ParameterError(f"box_size={box_size!r} is larger than the image of shape {shape}.")
    if filter_size[0] % 2 == 0 or filter_size[1] % 2 == 0:
        raise ParameterError(f"filter_size={filter_size!r}; expected odd numbers of boxes.")
    if sigma_clip is not None and not (is_number(sigma_clip) and sigma_clip > 0):
        raise ParameterError(f"sigma_clip={sigma_clip!r}; expected a positive number, or None.")
    if maxiters is not None and not (is_whole(maxiters) and maxiters >= 0):
        raise ParameterError(f"maxiters={maxiters!r}; expected a whole number, 0 or more, or None.")
    if estimator not in _ESTIMATORS:
        raise ParameterError(f"estimator={estimator!r}; expected one of {', '.join(map(repr, _ESTIMATORS))}.")
    if not (is_number(exclude_percentile) and 0 <= exclude_percentile <= 100):
        raise ParameterError(f"exclude_percentile={exclude_percentile!r}; expected 0 to 100.")


def _fill(levels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Give boxes that do not count the mean of the ten nearest that do, weighted by inverse distance."""
    if counts.all():
        return levels
    from photutils.utils import ShepardIDWInterpolator

    filled = levels.copy()
    interpolate = ShepardIDWInterpolator(np.argwhere(counts), levels[counts])
    filled[~counts] = interpolate(np.argwhere(~counts), n_neighbors=10, power=1.0, eps=0.0, regularization=0.0)
    return filled


def _box_statistics(data: da.Array, mask: da.Array | None, box_size, **clipping) -> da.Array:
    """
    Statistics of every box, lazily: for each block in which boxes begin a (4, boxes along y, boxes along x) array.

    Two tasks a chunk: one for the boxes inside a block, one for those that begin in it and go on beyond.
    """
    planes = [data] if mask is None else [data, mask]
    token = tokenize([plane.name for plane in planes], box_size, clipping)
    parts, joined = f"box-parts-{token}", f"boxes-{token}"
    edges = [block_edges(axis) for axis in data.chunks]
    owned = [_owned_boxes(axis, size) for axis, size in zip(edges, box_size, strict=True)]
    graph = {}
    for i, j in np.ndindex(*data.numblocks):
        origin = (int(edges[0][i]), int(edges[1][j]))
        take = partial(boxes_of_block, origin=origin, image_shape=data.shape, box_size=box_size, **clipping)
        graph[parts, i, j] = (take, *[(plane.name, i, j) for plane in planes])
    for (n, along_y), (m, along_x) in product(enumerate(owned[0]), enumerate(owned[1])):
        # The block in which the boxes begin comes first.
        sources = [(parts, i, j) for i, j in product(along_y.blocks, along_x.blocks)]
        join = partial(
            join_boxes, first=(along_y.first, along_x.first), count=(along_y.count, along_x.count), **clipping
        )
        graph[joined, n, m] = (partial(as_object, join), sources)
    graph = HighLevelGraph.from_collections(joined, graph, dependencies=planes)
    return da.Array(graph, joined, tuple((1,) * len(axis) for axis in owned), meta=np.empty((0, 0), object))


@dataclass(frozen=True)
class _Owned:
    """Along one axis: boxes that begin in a block, and the blocks, that one first, that they meet."""

    first: int
    count: int
    blocks: range


def _owned_boxes(edges: np.ndarray, size: int) -> list[_Owned]:
    owned = []
    for i, (start, stop) in enumerate(pairwise(edges)):
        first, last = -(-int(start) // size), -(-int(stop) // size)
        if first < last:
            end = min(last * size, int(edges[-1]))
            owned.append(_Owned(first, last - first, range(i, int(np.searchsorted(edges, end)))))
    return owned
