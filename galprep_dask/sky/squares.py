"""
An image averaged over squares of pixels, and marks on squares turned back into pixels.

Squares are kept in tiles, which have about as many squares as a chunk has pixels: whatever is done with squares takes
few tasks. Neither squares nor tiles ask for chunks that fit them, see the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef

from galprep_dask.blockwise import as_object, block_edges, keep, objects_of_blocks
from galprep_dask.sky._kernels.bins import coarsen, join_parts, means_of, mostly_known, part_of_block, unite_squares

__all__ = ["Grid", "TiledSquares", "coarser_squares", "mark_pixels", "squares_of"]


class Grid:
    """
    Tiles of an image.

    Parameters
    ----------
    chunks : tuple of tuples of int
        Of the image.
    sides : list of int
        Sides of the squares, in ascending order.
    """

    def __init__(self, chunks, sides: list[int]):
        self.chunks = chunks
        self.shape = tuple(sum(axis) for axis in chunks)
        step = math.lcm(*sides)
        # A tile holds whole squares of every side.
        lengths = (-(-sides[0] * max(axis) // step) * step for axis in chunks)
        self.edges = [[*range(0, n, length), n] for n, length in zip(self.shape, lengths, strict=True)]
        self.tiles = tuple(len(axis) - 1 for axis in self.edges)

    def box(self, i: int, j: int) -> tuple[int, int, int, int]:
        """Give rows and columns of pixels of a tile."""
        return *self.edges[0][i : i + 2], *self.edges[1][j : j + 2]

    def meeting(self, edges: list) -> list[list[range]]:
        """List, along each axis, the intervals between ``edges`` that each tile meets."""
        return [_meeting(ours, its) for ours, its in zip(self.edges, edges, strict=True)]

    def n_squares(self, side: int) -> tuple[tuple[int, ...], ...]:
        """Give the chunks of an array of squares."""
        return tuple(tuple(-(-size // side) for size in np.diff(axis).tolist()) for axis in self.edges)


def _meeting(ours, its) -> list[range]:
    first = np.searchsorted(its, ours[:-1], side="right") - 1
    last = np.searchsorted(its, ours[1:], side="left")
    return [range(*pair) for pair in zip(first.tolist(), last.tolist(), strict=True)]


class TiledSquares:
    """
    Squares of one side, in the tiles of a grid.

    Parameters
    ----------
    grid : Grid
        The tiles.
    side : int
        Of a square in pixels.
    tiles : (rows, columns) dask array of objects
        The squares of each tile.
    dtype : dtype
        Of the means.
    """

    def __init__(self, grid: Grid, side: int, tiles: da.Array, dtype):
        self.grid, self.side, self.tiles, self.dtype = grid, side, tiles, dtype

    @property
    def means(self) -> da.Array:
        """Means of the good pixels, NaN where bad ones are more."""
        return self._array(means_of, self.dtype)

    @property
    def mostly_known(self) -> da.Array:
        """Where more than half of the pixels belong to known sources."""
        return self._array(mostly_known, np.dtype(bool))

    def _array(self, func: Callable, dtype) -> da.Array:
        sizes = [np.minimum(self.side, n - np.arange(0, n, self.side)) for n in self.grid.shape]
        name = f"{func.__name__}-{tokenize(self.tiles.name)}"
        graph = {}
        for i, j in np.ndindex(*self.grid.tiles):
            y0, y1, x0, x1 = (-(-edge // self.side) for edge in self.grid.box(i, j))
            n_pixels = sizes[0][y0:y1], sizes[1][x0:x1]
            graph[name, i, j] = Task((name, i, j), partial(_take, func), TaskRef((self.tiles.name, i, j)), *n_pixels)
        graph = HighLevelGraph.from_collections(name, graph, dependencies=[self.tiles])
        return da.Array(graph, name, self.grid.n_squares(self.side), meta=np.empty((0, 0), dtype))


def _take(func, boxed, rows, columns):
    return func(boxed[0, 0], np.multiply.outer(rows, columns))


def squares_of(grid: Grid, side: int, image: da.Array, bad: da.Array | None, known: da.Array | None) -> TiledSquares:
    """
    Average an image over squares, once, and keep that in memory.

    Parameters
    ----------
    grid : Grid
        Tiles of the image.
    side : int
        Of a square in pixels.
    image : (ny, nx) float dask array
        Pixels that are not finite are left out.
    bad, known : (ny, nx) bool dask array or None
        Pixels that are left out; pixels to be counted.

    Returns
    -------
    TiledSquares
    """
    planes = {"block": image, "bad": bad, "known": known}
    planes = {name: plane for name, plane in planes.items() if plane is not None}
    parts = objects_of_blocks(_part, *planes.values(), names=list(planes), image_shape=image.shape, side=side)
    name = f"squares-{tokenize(parts.name, grid.edges)}"
    near = grid.meeting([block_edges(axis) for axis in image.chunks])
    graph = {}
    for i, j in np.ndindex(*grid.tiles):
        refs = [TaskRef((parts.name, *block)) for block in product(near[0][i], near[1][j])]
        graph[name, i, j] = Task((name, i, j), partial(as_object, partial(_join, grid.box(i, j), side)), *refs)
    graph = HighLevelGraph.from_collections(name, graph, dependencies=[parts])
    tiles = da.Array(graph, name, tuple((1,) * n for n in grid.tiles), meta=np.empty((0, 0), object))
    return TiledSquares(grid, side, keep(tiles), image.dtype)


def _part(*blocks, names, origin, image_shape, side):
    planes = {"bad": None, "known": None} | dict(zip(names, blocks, strict=True))
    return part_of_block(**planes, origin=origin, image_shape=image_shape, side=side)


def _join(box, side, *parts):
    return join_parts([part[0, 0] for part in parts], box, side)


def coarser_squares(squares: TiledSquares, marks: da.Array, bit: int, side: int) -> TiledSquares:
    """
    Average over larger squares, without those that are marked, and keep that in memory; no pixel is read.

    Parameters
    ----------
    squares : TiledSquares
        Of a side of which ``side`` is a multiple.
    marks : uint8 dask array
        A value for each square; those with a ``bit`` in it are left out.
    bit : int
        As for ``marks``.
    side : int
        Of the larger squares in pixels.

    Returns
    -------
    TiledSquares
    """
    tiles = da.blockwise(
        partial(as_object, partial(_coarsen, bit, side // squares.side, side)), "ij", squares.tiles, "ij", marks, "ij",
        dtype=object, meta=np.empty((0, 0), object), align_arrays=False,
    )  # fmt: skip
    return TiledSquares(squares.grid, side, keep(tiles), squares.dtype)


def _coarsen(bit, by, side, boxed, marks):
    return coarsen(boxed[0, 0], (marks & bit) != 0, by, side)


def mark_pixels(grid: Grid, marks: dict[int, da.Array], bit: int, pixels: da.Array | None = None) -> da.Array:
    """
    Mark the pixels that lie in a marked square, lazily, in one task a chunk.

    Parameters
    ----------
    grid : Grid
        Tiles of the image.
    marks : dict of int to uint8 dask array
        By the side of the squares, a value for each.
    bit : int
        Squares with it in their value are marked.
    pixels : (ny, nx) bool dask array, optional
        Pixels that are marked as well.

    Returns
    -------
    (ny, nx) bool dask array
        Of the chunks of the image.
    """
    name = f"marked-{tokenize([plane.name for plane in marks.values()], bit, pixels, grid.chunks)}"
    edges = [block_edges(axis).tolist() for axis in grid.chunks]
    near = [_meeting(np.asarray(ours), its) for ours, its in zip(edges, grid.edges, strict=True)]
    graph = {}
    for i, j in np.ndindex(len(grid.chunks[0]), len(grid.chunks[1])):
        shape, origin = (grid.chunks[0][i], grid.chunks[1][j]), (edges[0][i], edges[1][j])
        tiles = list(product(near[0][i], near[1][j]))
        corners = [(grid.edges[0][n], grid.edges[1][m]) for n, m in tiles]
        refs = [TaskRef((plane.name, *tile)) for plane in marks.values() for tile in tiles]
        given = [] if pixels is None else [TaskRef((pixels.name, i, j))]
        apply = partial(_mark, bit, tuple(marks), shape, origin, corners, len(given))
        graph[name, i, j] = Task((name, i, j), apply, *given, *refs)
    dependencies = [*marks.values(), *([] if pixels is None else [pixels])]
    graph = HighLevelGraph.from_collections(name, graph, dependencies=dependencies)
    return da.Array(graph, name, grid.chunks, meta=np.empty((0, 0), bool))


def _mark(bit, sides, shape, origin, corners, n_given, *blocks):
    marked = blocks[0] if n_given else np.zeros(shape, bool)
    blocks = iter(blocks[n_given:])
    for side in sides:
        tiles = [(y // side, x // side, (next(blocks) & bit) != 0) for y, x in corners]
        marked = unite_squares(marked, tiles, origin, side)
    return marked
