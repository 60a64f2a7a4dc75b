"""A sky of polynomial pieces with smooth joins, for mosaics that no single polynomial follows.

The image is divided into a grid of pieces, on each of which the sky is a polynomial of degree ``order`` in row and
in column; where pieces meet, it and its first ``order - 1`` derivatives are continuous. Such functions are sums of
products of B-splines, whose knots are the borders of the pieces. The sums that the fit needs are those of a polynomial
on every piece (``sums_and_band`` of the kernels); that the joins are smooth comes in afterwards, when they are gathered
into the normal equations of the splines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import dask.array as da
import numpy as np
from astropy.io import fits
from numpy.polynomial.chebyshev import chebvander
from scipy import sparse
from scipy.interpolate import BSpline
from scipy.sparse.linalg import splu

from galprep_dask.arrays import CHUNK_SIDE, ImageLike
from galprep_dask.blockwise import map_blocks_at
from galprep_dask.errors import ParameterError
from galprep_dask.image import no_good_pixels
from galprep_dask.sky._kernels.chebyshev import Band, change_of_sums, join_bands, sums_and_band
from galprep_dask.sky._kernels.pieces import evaluate_pieces, subtract_pieces
from galprep_dask.sky.least_squares import Solution, check_fit, clipped_fit, fit_planes, normal_matrix

__all__ = ["PiecewiseSky", "fit_piecewise_sky"]

#: Weight, in pixels, of the second differences of the coefficients: nothing beside the pixels of a piece, and
#: enough to carry the sky smoothly across pieces that have none.
_STIFFNESS = 1e-3


@dataclass(frozen=True)
class PiecewiseSky:
    """
    A sky of polynomial pieces with smooth joins.

    Attributes
    ----------
    coefficients : (n, m) float64 array
        Of the products of B-splines along y and along x.
    rms : float
        Standard deviation of the fitted pixels about the sky, weighted where weights were given.
    shape : (int, int)
        Shape of the image that it was fitted to.
    edges_y, edges_x : int arrays
        Borders of the pieces in pixels, from 0 to the length of the axis.
    order : int
        Degree of the pieces.
    n_pixels : int
        Number of pixels that it was fitted to.
    """

    coefficients: np.ndarray
    rms: float
    shape: tuple[int, int]
    edges_y: np.ndarray
    edges_x: np.ndarray
    order: int
    n_pixels: int

    def evaluate(self, shape: tuple[int, int] | None = None, chunks=(CHUNK_SIDE, CHUNK_SIDE)) -> da.Array:
        """
        Give the sky as a lazy image.

        Parameters
        ----------
        shape : (ny, nx), optional
            That of the image fitted, or smaller.
        chunks : optional
            Chunks of the result.

        Returns
        -------
        (ny, nx) float64 dask array

        Raises
        ------
        ParameterError
            ``shape`` is larger: the pieces end with the image.
        """
        shape = self.shape if shape is None else tuple(shape)
        self._check_within(shape)
        chunks = da.core.normalize_chunks(chunks, shape, dtype=np.float64)
        template = da.zeros(shape, chunks=chunks, dtype=bool)  # gives blocks their shape, and nothing else
        return map_blocks_at(_evaluate_like, template, dtype=np.float64, **self._splines())

    def subtract_from(self, image: da.Array, dtype) -> da.Array:
        """
        Give an image minus the sky, lazily, without an image of the sky in between.

        Parameters
        ----------
        image : (ny, nx) dask array
            In the unit of the sky, no larger than the image that it was fitted to.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        (ny, nx) dask array of ``dtype``
            The same to the bit as the difference to :meth:`evaluate`, taken in float64 and rounded once.

        Raises
        ------
        ParameterError
            The image is larger: the pieces end with the one that was fitted.
        """
        self._check_within(image.shape)
        return map_blocks_at(partial(subtract_pieces, dtype=dtype, **self._splines()), image, dtype=dtype)

    def _splines(self) -> dict:
        """Give what the kernels want to know."""
        knots = _knots(self.edges_y, self.order), _knots(self.edges_x, self.order)
        return {"coefficients": self.coefficients, "knots": knots, "order": self.order}

    def _check_within(self, shape) -> None:
        if any(wanted > known for wanted, known in zip(shape, self.shape, strict=True)):
            raise ParameterError(f"shape={shape!r} goes beyond the image of {self.shape} that the sky was fitted to.")

    def to_header(self) -> fits.Header:
        """Write down what the model is; its coefficients are too many for a header."""
        return fits.Header(
            [
                ("SKYMODEL", "piecewise", "sky model that was subtracted"),
                ("SKYORDER", self.order, "degree of the pieces along each axis"),
                ("SKYPCSX", len(self.edges_x) - 1, "pieces along x"),
                ("SKYPCSY", len(self.edges_y) - 1, "pieces along y"),
                ("SKYRMS", self.rms, "rms of source-free pixels"),
                ("SKYNPIX", self.n_pixels, "pixels fitted"),
            ]
        )


def fit_piecewise_sky(
    data: ImageLike,
    mask: ImageLike | None = None,
    *,
    piece_size: int | tuple[int, int] = 512,
    order: int = 3,
    weight: ImageLike | None = None,
    sigma_clip: float | None = 3.0,
    maxiters: int = 5,
) -> PiecewiseSky:
    """
    Fit polynomial pieces with smooth joins to the unmasked pixels by weighted least squares.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        Image in any linear unit. Not modified.
    mask : (ny, nx) bool array, optional
        True marks sources and bad pixels; non-finite pixels are always left out.
    piece_size : int or (int, int)
        Side of a piece in pixels, or ``(along y, along x)``; rounded so that equal pieces fill the image.
        Much larger than the largest galaxy, or the sky will follow it.
    order : int
        Degree of a piece along each axis; the joins are continuous to the derivative ``order - 1``.
    weight : (ny, nx) array, optional
        Inverse variance. Equal weights by default; pixels without a positive weight are left out.
    sigma_clip : float or None
        After a fit, pixels further than this many rms from the sky are left out of the next. None leaves
        none out.
    maxiters : int
        Fits with clipping at most; fewer when the number of pixels no longer changes.

    Returns
    -------
    PiecewiseSky
        Pieces without a good pixel take the smoothest continuation of their neighbours.

    Raises
    ------
    ImageShapeError
        Shapes differ.
    NoGoodPixelsError
        There is no good pixel.
    ParameterError
        ``order``, ``piece_size``, ``sigma_clip`` or ``maxiters`` make no sense.

    Notes
    -----
    Passes over the image are those of :func:`fit_polynomial_sky`. The pieces belong to the image and not to its
    chunks, which change the rounding of sums and nothing else.

    References
    ----------
    Eilers & Marx 1996, Statistical Science 11, 89 (B-splines with a penalty on differences).

    Examples
    --------
    >>> y, x = np.mgrid[:120, :160]
    >>> image = 5 + np.sin(x / 30) * np.cos(y / 40)
    >>> sky = fit_piecewise_sky(image, piece_size=40)
    >>> bool(np.abs(image - sky.evaluate()).max().compute() < 0.05)
    True
    """
    check_fit(order, 1, sigma_clip, maxiters)
    planes = fit_planes(data, mask, weight)
    shape = planes[0].shape
    edges = [_piece_edges(size, n, order) for size, n in zip(_sizes(piece_size), shape, strict=True)]
    system = _System(edges, order)

    pieces = {"edges_y": edges[0], "edges_x": edges[1], "order": order}
    found = clipped_fit(
        planes, np.zeros(system.shape), sigma_clip, maxiters, solve=system.solve, furthest=system.furthest,
        rounding=_rounding, shown=system.pieces_of,
        look=partial(_look_at_pieces, has_mask=mask is not None, has_weight=weight is not None, **pieces),
        change=partial(_change_of_pieces, **pieces),
    )  # fmt: skip
    return PiecewiseSky(
        found.model + found.correction, system.rms(found), shape, edges[0], edges[1], int(order), found.n_pixels
    )


def _rounding(found: Solution) -> float:
    return float(8 * np.finfo(np.float64).eps * np.abs(found.model + found.correction).max())


def _sizes(piece_size) -> tuple[int, int]:
    sizes = np.broadcast_to(np.asarray(piece_size), (2,)) if np.size(piece_size) in (1, 2) else [0]
    if any(not float(size).is_integer() or size < 1 for size in sizes):
        raise ParameterError(f"piece_size={piece_size!r}; expected one or two whole numbers of pixels.")
    return int(sizes[0]), int(sizes[1])


def _piece_edges(size: int, length: int, order: int) -> np.ndarray:
    """Borders of equal pieces of about ``size`` pixels that fill ``length``."""
    if size < 2 * (order + 1):
        raise ParameterError(f"piece_size={size}; a piece of degree {order} needs at least {2 * (order + 1)} pixels.")
    if length < order + 1:
        raise ParameterError(f"an axis of {length} pixels is too short for pieces of degree {order}. Lower the order.")
    count = max(1, round(length / size))
    return np.round(np.linspace(0, length, count + 1)).astype(np.int64)


def _basis(edges: np.ndarray, order: int, pixels: np.ndarray) -> np.ndarray:
    """Values of all B-splines of an axis, whose knots lie on the borders of pixels, at pixel coordinates."""
    return BSpline.design_matrix(pixels, _knots(edges, order), order).toarray()


def _knots(edges: np.ndarray, order: int) -> np.ndarray:
    borders = edges - 0.5
    return np.concatenate([[borders[0]] * order, borders, [borders[-1]] * order])


def _evaluate_like(block, *, origin, **splines):
    return evaluate_pieces(block.shape, origin, **splines)


def _look_at_pieces(
    block, *planes, origin, edges_y, edges_x, order, model, room, **how
) -> tuple[np.ndarray, Band]:  # fmt: skip
    """Take the sums of every piece, shape (pieces along y, along x, sums): zero where the block has no part in it."""
    total, bands = _no_sums(edges_y, edges_x, order), []
    for i in _pieces_in(edges_y, origin[0], block.shape[0]):
        for j in _pieces_in(edges_x, origin[1], block.shape[1]):
            corner = int(edges_y[i]), int(edges_x[j])
            shape = edges_y[i + 1] - edges_y[i], edges_x[j + 1] - edges_x[j]
            part, start = zip(*(
                _overlap(*axis) for axis in zip(origin, block.shape, corner, shape, strict=True)
            ), strict=True)  # fmt: skip
            total[i, j], band = sums_and_band(
                block[part], *(plane[part] for plane in planes), origin=start, image_shape=shape, order=order,
                model=model[i, j], corner=corner, room=room, **how,
            )  # fmt: skip
            room -= len(band.values)
            bands.append(band)
    return total, join_bands(bands)


def _change_of_pieces(band: Band, *, edges_y, edges_x, order, model, shifted, limit) -> np.ndarray:
    """Take the change of the sums of every piece, from the pixels that lie in it."""
    total = _no_sums(edges_y, edges_x, order)
    i, j = (np.searchsorted(edges, at, side="right") - 1 for edges, at in ((edges_y, band.y), (edges_x, band.x)))
    piece = i * total.shape[1] + j
    in_order = np.argsort(piece, kind="stable")
    first = np.flatnonzero(np.diff(piece[in_order], prepend=-1))
    for members in np.split(in_order, first[1:]) if len(first) else []:
        at = i[members[0]], j[members[0]]
        y, x, *rest = (array[members] for array in band[:5])
        y, x = y - edges_y[at[0]], x - edges_x[at[1]]
        shape = edges_y[at[0] + 1] - edges_y[at[0]], edges_x[at[1] + 1] - edges_x[at[1]]
        total[at] = change_of_sums(
            Band(y, x, *rest, band.largest_weight, 0), image_shape=shape, order=order, model=model[at],
            shifted=shifted[at], limit=limit,
        )  # fmt: skip
    return total


def _no_sums(edges_y, edges_x, order: int) -> np.ndarray:
    return np.zeros((len(edges_y) - 1, len(edges_x) - 1, (2 * order + 1) ** 2 + (order + 1) ** 2 + 2))


def _pieces_in(edges, start: int, length: int) -> range:
    first = int(np.searchsorted(edges, start, side="right")) - 1
    return range(first, int(np.searchsorted(edges, start + length, side="left")))


def _overlap(origin: int, length: int, corner: int, size: int) -> tuple[slice, int]:
    """Part of a block that lies in a piece, and where it begins in the piece."""
    low, high = max(origin, int(corner)), min(origin + length, int(corner + size))
    return slice(low - origin, high - origin), low - int(corner)


class _System:
    """The normal equations of the splines, from the sums of the pieces."""

    def __init__(self, edges: list[np.ndarray], order: int):
        self.order = order
        self.shape = tuple(len(axis) - 1 + order for axis in edges)
        self.shape_of_sums = (len(edges[0]) - 1, len(edges[1]) - 1, (2 * order + 1) ** 2 + (order + 1) ** 2 + 2)
        self.roughness = _roughness(edges, order)
        # local[c] turns the order + 1 splines that live on piece c into Chebyshev coefficients there.
        self.local = [[_to_chebyshev(axis, order, c) for c in range(len(axis) - 1)] for axis in edges]

    def pieces_of(self, coefficients: np.ndarray) -> np.ndarray:
        """Chebyshev coefficients of every piece."""
        k = self.order + 1
        models = np.empty((*self.shape_of_sums[:2], k, k))
        for i, along_y in enumerate(self.local[0]):
            for j, along_x in enumerate(self.local[1]):
                models[i, j] = along_y @ coefficients[i : i + k, j : j + k] @ along_x.T
        return models

    def furthest(self, correction: np.ndarray) -> float:
        """No less than what a correction of the coefficients changes at any pixel."""
        return float(np.abs(correction).max())  # B-splines are positive, and their sum is one

    def rms(self, found: Solution) -> float:
        """Weighted standard deviation of the residuals; the first of the sums are those of weights."""
        return found.scatter * float(np.sqrt(found.n_pixels / found.sums[..., 0].sum()))

    def solve(self, sums: np.ndarray, coefficients: np.ndarray) -> Solution:
        """Gather the pieces into one sparse system, and solve it for the correction to ``coefficients``."""
        k, wide = self.order + 1, 2 * self.order + 1
        terms = [axis.ravel() for axis in np.indices((k, k))]
        n_pixels = int(sums[..., -1].sum())
        if n_pixels == 0:
            raise no_good_pixels("fit the sky")
        weight = float(sums[..., 0].sum())
        size = self.shape[0] * self.shape[1]
        rows, columns, values, right = [], [], [], np.zeros(size)
        for i, along_y in enumerate(self.local[0]):
            for j, along_x in enumerate(self.local[1]):
                gram = sums[i, j, : wide * wide].reshape(wide, wide)
                rhs = sums[i, j, wide * wide : -2].reshape(k, k)
                index = ((np.arange(i, i + k) * self.shape[1])[:, None] + np.arange(j, j + k)).ravel()
                both = np.kron(along_y, along_x)
                rows.append(np.repeat(index, k * k))
                columns.append(np.tile(index, k * k))
                values.append((both.T @ normal_matrix(gram, *terms) @ both).ravel())
                right[index] += both.T @ rhs.ravel()
        normal = sparse.csc_array(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size)
        )
        stiffness = _STIFFNESS * weight / n_pixels * self.roughness
        correction = splu(sparse.csc_array(normal + stiffness)).solve(right - stiffness @ coefficients.ravel())
        before = float(sums[..., -2].sum())
        square = max(before - 2 * correction @ right + correction @ (normal @ correction), 0.0)
        return Solution(
            coefficients, correction.reshape(self.shape), float(np.sqrt(square / n_pixels)),
            square / before if before > 0 else 0.0, n_pixels, sums,
        )  # fmt: skip


def _to_chebyshev(edges: np.ndarray, order: int, piece: int) -> np.ndarray:
    first, length = edges[piece], edges[piece + 1] - edges[piece]
    nodes = np.cos(np.pi * (np.arange(order + 1) + 0.5) / (order + 1))
    pixels = first + (nodes + 1) * (length - 1) / 2  # the inverse of on_domain
    splines = _basis(edges, order, pixels)[:, piece : piece + order + 1]
    return np.linalg.solve(chebvander(nodes, order), splines)


def _roughness(edges: list[np.ndarray], order: int) -> sparse.csc_array:
    """
    Sum of the squared second differences of the coefficients along both axes, as a matrix.

    Differences are divided by the distances of the Greville points, at which the coefficients of a straight line
    are its values: a straight line costs nothing, up to the edges of the image.
    """
    squares = []
    for axis in edges:
        knots = _knots(axis, order)
        points = np.array([knots[n + 1 : n + order + 1].mean() for n in range(len(axis) - 1 + order)])
        steps = np.diff(points) / np.mean(np.diff(points))
        slopes = np.diff(np.eye(len(points)), axis=0) / steps[:, None]
        second = sparse.csc_array(np.diff(slopes, axis=0))
        squares.append(second.T @ second)
    identity = [sparse.eye_array(square.shape[0]) for square in squares]
    return sparse.kron(squares[0], identity[1]) + sparse.kron(identity[0], squares[1])
