"""Stamps: small squares around many positions, as one array."""

from __future__ import annotations

import math
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
from dask.base import get_scheduler, tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT

from galprep_dask.arrays import ImageLike, as_image
from galprep_dask.blockwise import block_edges
from galprep_dask.cutouts._kernels import box_overlaps, boxes_of_blocks, copy_rectangles, near_order
from galprep_dask.cutouts.position import first_pixels
from galprep_dask.errors import ImageShapeError, ParameterError
from galprep_dask.io.fits_reader import FitsPlane, reader_of
from galprep_dask.io.open import lazy_plane

__all__ = ["extract_stamps", "stamp_origins"]

#: Pixels that one call of the kernel copies: long enough to be worth a thread, short enough to share out evenly.
_PIXELS_OF_A_TASK = 2**22

#: Stamps that are read from a file through one map of it.
_READ_AT_ONCE = 1000


def stamp_origins(x, y, size: int) -> tuple[np.ndarray, np.ndarray]:
    """
    First pixels of stamps, so that a position is at ``(x - x0, y - y0)`` in its stamp.

    Parameters
    ----------
    x, y : (n,) arrays
        0-based positions in the image.
    size : int
        Side of the stamps in pixels.

    Returns
    -------
    x0, y0 : (n,) int64 arrays
        The position is within half a pixel of the middle of the stamp, ``(size - 1) / 2``: for odd sizes the middle
        pixel is the one that it is in.

    Raises
    ------
    ParameterError
        A position is not finite, the arrays differ in length, or ``size`` makes no sense.

    Examples
    --------
    >>> x0, y0 = stamp_origins([100.3], [50.0], 21)
    >>> int(x0[0]), int(y0[0])
    (90, 40)
    """
    if not (np.ndim(size) == 0 and isinstance(size, int | np.integer) and size >= 1):
        raise ParameterError(f"size={size!r}; expected a whole number of pixels, 1 or more.")
    try:
        x, y = (np.atleast_1d(np.asarray(at, dtype=float)) for at in (x, y))
    except (TypeError, ValueError) as error:
        raise ParameterError(f"x and y cannot be taken for positions in pixels: {error}.") from error
    if x.ndim != 1 or x.shape != y.shape:
        raise ParameterError(f"x has shape {x.shape}, y has {y.shape}; expected as many positions in both.")
    wrong = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
    if len(wrong):
        raise ParameterError(
            f"{len(wrong)} of {len(x)} positions are not finite, the first is x[{wrong[0]}]={x[wrong[0]]}, "
            f"y[{wrong[0]}]={y[wrong[0]]}. Leave them out."
        )
    # Whatever is this far outside is all the same, and a sum of such numbers does not overflow.
    return tuple(first_pixels(np.clip(at, -(2**30), 2**30), size) for at in (x, y))


def extract_stamps(
    data: ImageLike, x, y, size: int, *, fill_value: float | None = None, out: np.ndarray | None = None
) -> ImageLike:
    """
    Cut a stamp around each of many positions, all of one size, into one array.

    Parameters
    ----------
    data : (ny, nx) array, NumPy, dask or xarray
        An image, a mask, labels: any dtype of real numbers. Not modified.
    x, y : (n,) arrays
        0-based positions. The stamp is of whole pixels, with the position within half a pixel of its middle;
        :func:`stamp_origins` gives its first pixel, and with it where the position is in it.
    size : int
        Side in pixels.
    fill_value : float, optional
        Value beyond the edges of the image; by default NaN, in a mask True, in integers 0.
    out : (n, size, size) NumPy array, optional
        Where to put the stamps, of the dtype of ``data`` in native byte order. It is filled now, whatever kind ``data``
        is, and memory that has been used before is quicker than what ``extract_stamps`` would ask for.

    Returns
    -------
    (n, size, size) array
        Of the dtype of ``data``: NumPy for NumPy, lazy for dask, a lazy DataArray with dims ``("stamp", "y", "x")`` for
        xarray, and ``out`` where it is given.

    Raises
    ------
    ParameterError
        A position is not finite, ``size`` or ``fill_value`` makes no sense, or ``out`` does not fit.
    ImageShapeError
        ``data`` is no image.

    Notes
    -----
    Each chunk that a stamp meets is read once when all stamps are computed, and no other. Until a chunk of lazy stamps
    is complete, the blocks that it meets wait in memory, or the parts that are cut out of them where that is less; with
    ``out``, on dask's threads, all is written straight to its place: take that for many.

    Stamps are worked through in an order in which neighbours share the cache, by as many threads as dask would use.

    Examples
    --------
    >>> image = np.arange(10000.0).reshape(100, 100)
    >>> stamps = extract_stamps(image, [50.2, 0.0], [50.0, 99.0], 3)
    >>> stamps[0].tolist()
    [[4949.0, 4950.0, 4951.0], [5049.0, 5050.0, 5051.0], [5149.0, 5150.0, 5151.0]]
    >>> stamps[1].tolist()
    [[nan, 9800.0, 9801.0], [nan, 9900.0, 9901.0], [nan, nan, nan]]
    """
    x0, y0 = stamp_origins(x, y, size)
    size = int(size)
    in_memory = _is_plain(data)
    image = data if in_memory else as_image(data)  # dask would copy it
    fill = _checked_fill(fill_value, image.dtype)
    x0, y0 = (np.clip(at, -size, n).astype(np.int32) for at, n in ((x0, image.shape[1]), (y0, image.shape[0])))
    has_dims = hasattr(data, "dims")
    lazy_kind = has_dims or isinstance(data, da.Array)
    if out is None and lazy_kind:
        stamps = _stamps_lazily(image, y0, x0, size, fill)
        return _with_dims(stamps) if has_dims else stamps

    shape = (len(x0), size, size)
    out = np.empty(shape, image.dtype) if out is None else _checked_out(out, shape, image.dtype)
    scheduler = get_scheduler(collections=[image]) if lazy_kind else dask.threaded.get
    if scheduler not in (dask.threaded.get, dask.local.get_sync):  # processes cannot write to our memory
        out[...] = _stamps_lazily(image, y0, x0, size, fill).compute()
        return out
    beyond = _beyond(y0, x0, size, image.shape)
    out[beyond] = fill
    if in_memory:
        _copy_from_memory(image, y0, x0, out)
    else:
        _copy_from_blocks(image, y0, x0, out, scheduler)
    return out


def _is_plain(data) -> bool:
    """Tell whether an image is a NumPy array whose pixels can be copied as they are."""
    if not isinstance(data, np.ndarray) or isinstance(data, np.ma.MaskedArray):
        return False
    return data.ndim == 2 and data.size > 0 and data.dtype.isnative and data.dtype.kind in "biuf"


def _with_dims(stamps: da.Array):
    import xarray as xr

    return xr.DataArray(stamps, dims=("stamp", "y", "x"))


def _checked_fill(fill_value, dtype: np.dtype):
    """Give the value beyond the edges as a scalar of the dtype of the image."""
    if fill_value is None:
        fill_value = {"f": np.nan, "b": True}.get(dtype.kind, 0)
    try:
        with np.errstate(all="ignore"):
            fill = np.asarray(fill_value).astype(dtype)[()]
        same = fill == fill_value or (dtype.kind == "f" and not np.isfinite(fill_value)) or dtype.kind == "f"
    except (TypeError, ValueError, OverflowError):
        same = False
    if not same:
        raise ParameterError(f"fill_value={fill_value!r} is no value of an image of dtype {dtype}.")
    return fill


def _checked_out(out, shape, dtype) -> np.ndarray:
    if not isinstance(out, np.ndarray) or out.dtype != dtype or not out.flags.writeable:
        raise ParameterError(
            f"out is {type(out).__name__} of {getattr(out, 'dtype', None)}; "
            f"expected a writeable NumPy array of {dtype}."
        )
    if out.shape != shape:
        raise ImageShapeError(f"out has shape {out.shape}; expected {shape}.")
    return out


def _beyond(y0, x0, size, shape) -> np.ndarray:
    """List the stamps that cross the edge of the image."""
    return np.flatnonzero((y0 < 0) | (x0 < 0) | (y0 + size > shape[0]) | (x0 + size > shape[1]))


# In memory -----------------------------------------------------------------------------------------------


def _copy_from_memory(data: np.ndarray, y0, x0, out: np.ndarray) -> None:
    """Fill ``out`` by as many threads as dask would use."""
    order = near_order(y0, x0)
    step = max(1, _PIXELS_OF_A_TASK // out[:1].size) if len(out) else 1
    groups = [order[start : start + step] for start in range(0, len(order), step)]

    def copy(members):
        _copy_overlaps(data, 0, 0, y0[members], x0[members], members, out)

    if len(groups) <= 1:
        for members in groups:
            copy(members)
    else:
        with ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as threads:
            list(threads.map(copy, groups))


def _copy_overlaps(block, top: int, left: int, y0, x0, slots, stamps) -> tuple[np.ndarray, np.ndarray]:
    """Copy what a block, whose first pixel is (top, left), has of stamps into slots; give places and sizes there."""
    bottom, right = top + block.shape[0], left + block.shape[1]
    overlaps = box_overlaps(y0, x0, stamps.shape[1], top, bottom, left, right)
    from_where = np.column_stack([np.zeros_like(slots), overlaps[:, 0] - top, overlaps[:, 1] - left])
    to_where = np.column_stack([slots, overlaps[:, 0] - y0, overlaps[:, 1] - x0])
    _copy_words(block[None], from_where, stamps, to_where, overlaps[:, 2:])
    return to_where, overlaps[:, 2:]


def _copy_words(source, from_where, target, to_where, sizes) -> None:
    """Copy pixels of any dtype as words of their length, so that the kernel is compiled for lengths only."""
    word = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}[source.dtype.itemsize]
    to_where, from_where, sizes = (np.ascontiguousarray(table, np.int64) for table in (to_where, from_where, sizes))
    source = source.view(word)
    source.flags.writeable = False  # of the view: a type more or less to be compiled
    copy_rectangles(source, from_where, target.view(word), to_where, sizes)


# Block by block ------------------------------------------------------------------------------------------


def _members_of_blocks(image: da.Array, y0, x0, size):
    """Yield every block that a stamp meets, its first pixel, and the stamps that meet it, in ascending order."""
    edges = [block_edges(axis) for axis in image.chunks]
    side = np.full(len(y0), size)
    which, rows, columns = boxes_of_blocks(*edges, y0, x0, side, side)
    starts = np.flatnonzero(np.diff(rows, prepend=-1) | np.diff(columns, prepend=-1))
    for start, members in zip(starts, np.split(which.astype(np.int32), starts[1:]), strict=False):
        i, j = int(rows[start]), int(columns[start])
        yield (i, j), (int(edges[0][i]), int(edges[1][j])), members


def _copy_from_blocks(image: da.Array, y0, x0, out: np.ndarray, scheduler) -> None:
    """Fill ``out`` as the blocks are read, in threads of this process."""
    image = _by_whole_rows(image, y0, x0, out.shape[1])
    name = f"stamps-{uuid.uuid4().hex}"  # what is done to memory is never taken for done before
    graph = {}
    for n, (block, origin, members) in enumerate(_members_of_blocks(image, y0, x0, out.shape[1])):
        graph[name, n] = (partial(_copy_block, origin, y0[members], x0[members], members, out), (image.name, *block))
    if graph:
        layers = HighLevelGraph.from_collections(name, graph, dependencies=[image])
        da.Array(layers, name, ((1,) * len(graph),), meta=np.empty(0, bool)).compute(scheduler=scheduler)


def _by_whole_rows(image: da.Array, y0, x0, size: int) -> da.Array:
    """
    Give the same image in chunks of whole rows, where it is a plain file of which every block is wanted.

    Whole rows are one run of bytes each, which is read twice as fast as the rows of a block.
    """
    plane = reader_of(image)
    (n_rows, n_columns), block = image.chunksize, math.prod(image.chunksize)
    if plane is None or n_columns == image.shape[1]:
        return image
    rows = min(n_rows, max(block // image.shape[1], 4 * size))  # fewer would cut most stamps in parts
    if rows * image.shape[1] > 4 * block:
        return image
    n_met = sum(1 for _ in _members_of_blocks(image, y0, x0, size))
    return lazy_plane(plane, (rows, -1), dtype=image.dtype) if n_met == image.npartitions else image


def _copy_block(origin, y0, x0, members, out, block):
    order = near_order(y0, x0)
    _copy_overlaps(block, *origin, y0[order], x0[order], members[order], out)
    return np.ones(1, bool)


def _stamps_lazily(image: da.Array, y0, x0, size: int, fill) -> da.Array:
    """Make chunks of some stamps each, of the blocks that they meet or of parts cut out of these."""
    chunks = da.core.normalize_chunks(("auto", size, size), (len(y0), size, size), dtype=image.dtype)
    edges = block_edges(chunks[0])
    token = tokenize(image.name, y0, x0, size, fill)
    parts, name = f"parts-{token}", f"stamps-{token}"
    met = [
        # With the members of each chunk of stamps, numbered from its first.
        (block, origin, members, np.searchsorted(members, edges))
        for block, origin, members in _members_of_blocks(image, y0, x0, size)
    ]
    # What waits for the other blocks of a chunk of stamps: whichever is less.
    n_met = sum(image.chunks[0][i] * image.chunks[1][j] for (i, j), *_ in met)
    plane = reader_of(image)
    if plane is not None and 2 * len(y0) * size**2 < n_met:  # of what would be read little is wanted
        return _stamps_of_file(plane, y0, x0, size, fill, chunks, token)
    waits_as_parts = n_met > len(y0) * size**2
    graph: dict = {}
    sources: list[list] = [[] for _ in chunks[0]]
    places: list[list] = [[] for _ in chunks[0]]
    for block, origin, members, stops in met:
        slots = members - edges[np.searchsorted(edges, members, side="right") - 1].astype(np.int32)
        if waits_as_parts:
            cut = partial(_cut_parts, origin, y0[members], x0[members], slots, stops, size)
            graph[parts, *block] = (cut, (image.name, *block))
        for n in np.flatnonzero(np.diff(stops)):
            sources[n].append((parts if waits_as_parts else image.name, *block))
            places[n].append((origin, slots[stops[n] : stops[n + 1]]))
    beyond = _beyond(y0, x0, size, image.shape)
    for n, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        crossing = beyond[(beyond >= low) & (beyond < high)] - low
        empty = (high - low, size, size), image.dtype, crossing, fill
        if waits_as_parts:
            join = partial(_join_parts, n, *empty)
        else:
            join = partial(_cut_from_blocks, *empty, y0[low:high], x0[low:high], places[n])
        graph[name, n, 0, 0] = (join, sources[n])
    graph = HighLevelGraph.from_collections(name, graph, dependencies=[image])
    return da.Array(graph, name, chunks, meta=np.empty((0, 0, 0), image.dtype))


def _stamps_of_file(plane: FitsPlane, y0, x0, size: int, fill, chunks, token) -> da.Array:
    """Make chunks of some stamps each, read from their places in a file."""
    name, reader = f"stamps-{token}", f"reader-{token}"
    graph: dict = {reader: plane}
    for n, (low, high) in enumerate(pairwise(block_edges(chunks[0]).tolist())):
        graph[name, n, 0, 0] = (partial(read_stamps, y0[low:high], x0[low:high], size, fill), reader)
    return da.Array(graph, name, chunks, meta=np.empty((0, 0, 0), plane.dtype))


def read_stamps(y0, x0, size: int, fill, plane: FitsPlane) -> np.ndarray:
    """
    Read stamps straight from their places in a file.

    Parameters
    ----------
    y0, x0 : (n,) int arrays
        Their first pixels.
    size : int
        Side in pixels.
    fill : scalar
        What lies beyond the edges of the image.
    plane : FitsPlane
        A plain image, which :func:`galprep_dask.io.fits_reader.reader_of` gives.

    Returns
    -------
    (n, size, size) array
        Of the dtype of the plane.
    """
    stamps = np.full((len(y0), size, size), fill, plane.dtype)
    order = near_order(y0, x0)
    for start in range(0, len(order), _READ_AT_ONCE):
        members, places, regions = [], [], []
        for k in order[start : start + _READ_AT_ONCE].tolist():
            first = int(y0[k]), int(x0[k])
            region = tuple(slice(max(at, 0), min(at + size, n)) for at, n in zip(first, plane.shape, strict=True))
            if all(axis.start < axis.stop for axis in region):
                members.append(k)
                regions.append(region)
                places.append(tuple(slice(r.start - at, r.stop - at) for r, at in zip(region, first, strict=True)))
        for k, place, pixels in zip(members, places, plane.windows(regions) if regions else [], strict=True):
            stamps[k][place] = pixels
    return stamps


def _cut_from_blocks(shape, dtype, crossing, fill, y0, x0, places, blocks) -> np.ndarray:
    stamps = np.empty(shape, dtype)
    stamps[crossing] = fill
    for (origin, slots), block in zip(places, blocks, strict=True):
        order = slots[near_order(y0[slots], x0[slots])]
        _copy_overlaps(block, *origin, y0[order], x0[order], order, stamps)
    return stamps


def _cut_parts(origin, y0, x0, slots, stops, size, block) -> dict:
    """Cut what a block has of the stamps: for each chunk of stamps their pixels, and where these belong."""
    parts = {}
    for n, (start, stop) in enumerate(pairwise(stops)):
        if stop > start:
            pixels = np.empty((stop - start, size, size), block.dtype)
            order = start + near_order(y0[start:stop], x0[start:stop])
            where, sizes = _copy_overlaps(block, *origin, y0[order], x0[order], order - start, pixels)
            parts[n] = pixels, where, slots[order], sizes
    return parts


def _join_parts(n, shape, dtype, crossing, fill, sources) -> np.ndarray:
    stamps = np.empty(shape, dtype)
    stamps[crossing] = fill
    for parts in sources:
        pixels, where, slots, sizes = parts[n]
        _copy_words(pixels, where, stamps, np.column_stack([slots, where[:, 1:]]), sizes)
    return stamps
