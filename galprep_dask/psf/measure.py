"""Sizes and shapes of the sources that may be stars, measured where their pixels are."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from galprep_dask.blockwise import block_edges
from galprep_dask.cutouts.stamps import read_stamps
from galprep_dask.io.fits_reader import FitsPlane, reader_of
from galprep_dask.psf._kernels.shapes import COLUMNS, TO_FWHM, in_rows, measure_shapes, reach_of
from galprep_dask.psf._kernels.windows import cut_windows, empty_windows, paste_windows
from galprep_dask.psf.locus import find_mode
from galprep_dask.segmentation.segmentation_image import as_labels

__all__ = ["default_size", "measure_sources", "measure_until_wide_enough"]


#: How far, in the log of the width, stars may be from what the windows were made for.
_FAR = 0.25
#: Sources that tell whether it is so, of more than twice as many.
_TRIED = 3000


def default_size(width: float) -> int:
    """Give the side of the box around stars of a standard deviation in pixels: eight times their FWHM, odd."""
    return 2 * round(4 * TO_FWHM * width) + 1


def measure_until_wide_enough(
    planes: dict[str, da.Array], peaks: np.ndarray, labels: np.ndarray, width: float, size: int | None, *,
    again: bool, **kwargs,
) -> tuple[dict[str, np.ndarray], int]:  # fmt: skip
    """
    Measure sources, and once more where stars turn out to be of another width than the windows were made for.

    Parameters
    ----------
    planes, peaks, labels
        As for :func:`measure_sources`.
    width : float
        Standard deviation in pixels of a star, as it was guessed.
    size : int or None
        Side of the box; None takes :func:`default_size`.
    again : bool
        Whether the guess may be mended. Of many sources some are tried for that, in one part of the image.
    **kwargs
        Handed to :func:`measure_sources`.

    Returns
    -------
    dict of (n,) arrays, and the side of the box
    """
    tried = _around_the_middle(peaks, planes["image"].shape)
    if again and len(tried) < len(peaks):
        width = _mended(measure_sources(
            planes, peaks[tried], labels[tried], width=width, size=size or default_size(width), **kwargs
        ), width)  # fmt: skip
        again = False
    box = size or default_size(width)
    measured = measure_sources(planes, peaks, labels, width=width, size=box, **kwargs)
    if again and (found := _mended(measured, width)) != width:
        box = size or default_size(found)
        measured = measure_sources(planes, peaks, labels, width=found, size=box, **kwargs)
    return measured, box


def _around_the_middle(peaks: np.ndarray, shape) -> np.ndarray:
    """Rows of the sources in a square about the middle of the image; all of them where they are few."""
    if len(peaks) <= 2 * _TRIED:
        return np.arange(len(peaks))
    distance = np.abs(peaks - (np.array(shape) - 1) / 2).max(axis=1)
    return np.flatnonzero(distance <= np.partition(distance, _TRIED)[_TRIED])


def _mended(measured: dict, width: float) -> float:
    """Width of stars among what was measured, if it is far from what the windows were made for."""
    good = np.isfinite(measured["width"]) & (measured["n_bad_core"] == 0)
    if not good.any():
        return width
    found = float(np.exp(find_mode(np.log(measured["width"][good]), measured["snr"][good])))
    return width if abs(np.log(found / width)) < _FAR else found


def measure_sources(
    planes: dict[str, da.Array], peaks: np.ndarray, labels: np.ndarray, *, width: float, size: int,
    sky_std: float | None, saturate: float,
) -> dict[str, np.ndarray]:  # fmt: skip
    """
    Measure sources, block by block.

    Where sources are few for the size of an image that is a plain file, their windows are read from their places in it,
    and measured, in one task for those of a block. Else there are two tasks a block. The first measures the sources
    whose pixels all lie in the block, and cuts out what it has of the others: small windows, so that no block waits for
    another. The second puts the windows together and measures those.

    Parameters
    ----------
    planes : dict of (ny, nx) dask arrays
        "image", "labels" of any integers, and where they are known "mask" and "sigma", all of the same chunks.
    peaks : (n, 2) int array
        Row and column of the brightest pixel of each source.
    labels : (n,) int array
        Their labels.
    width : float
        Standard deviation in pixels of a star, about.
    size : int
        Side of the box in pixels, odd.
    sky_std : float or None
        Noise of the sky; None takes "sigma".
    saturate : float
        Level of saturation.

    Returns
    -------
    dict of (n,) float64 arrays
        ``COLUMNS`` of :mod:`galprep_dask.psf._kernels.shapes`, positions in the image. No chunking changes a bit.
    """
    measured = np.full((len(labels), len(COLUMNS)), np.nan)
    if len(labels):
        peaks, labels = peaks.astype(np.int64), labels.astype(np.int64)
        reach, chunks = reach_of(width, size), planes["image"].chunks
        how = {"width": width, "size": size, "saturate": saturate}
        readers = {name: reader_of(plane) for name, plane in planes.items()}
        little = 2 * len(labels) * (2 * reach + 1) ** 2 < planes["image"].size
        if little and None not in readers.values():  # of the blocks: windows are read straight from the files
            found = _computed_from_files(readers, _homes(chunks, peaks), peaks, labels, sky_std, how)
        else:
            found = _computed(planes, _plan(chunks, peaks, labels, reach), sky_std, how)
        for rows, part in found:
            measured[rows] = part
        measured[:, 0] += peaks[:, 1]
        measured[:, 1] += peaks[:, 0]
    return dict(zip(COLUMNS, measured.T, strict=True))


# Which block has what ------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """What one block has to do."""

    inner: np.ndarray  # rows of its sources that lie in it with all their pixels
    outer: np.ndarray  # and of those that do not
    starts: np.ndarray  # brightest pixels of both, in this order, counted from the block's first
    labels: np.ndarray
    corners: np.ndarray  # of the windows that it has a part of, counted from the block's first
    givers: list  # blocks that have parts of its own: their index, which parts, of which of ``outer``


def _plan(chunks, peaks: np.ndarray, labels: np.ndarray, reach: int) -> dict[tuple[int, int], _Block]:
    """Tell every block that has something of a source what to do."""
    edges = [block_edges(axis) for axis in chunks]
    shape, n_columns = [int(axis[-1]) for axis in edges], len(edges[1]) - 1
    # Blocks that hold the brightest pixel, the first and the last of the window, along each axis.
    home, first, last = (
        np.stack([np.searchsorted(edges[i], np.clip(peaks[:, i] + shift, 0, shape[i] - 1), side="right") - 1
                  for i in (0, 1)], axis=1) for shift in (0, -reach, reach)
    )  # fmt: skip
    is_outer = (first != last).any(axis=1)
    number = home[:, 0] * n_columns + home[:, 1]
    owners = {key: (rows[~is_outer[rows]], rows[is_outer[rows]]) for key, rows in _grouped(number)}

    far = np.flatnonzero(is_outer)
    spread = (last - first)[far].max(axis=0, initial=0)
    source, giver = [], []
    for i, j in np.ndindex(int(spread[0]) + 1, int(spread[1]) + 1):
        at = first[far] + (i, j)
        there = (at <= last[far]).all(axis=1)
        source.append(far[there])
        giver.append(at[there] @ (n_columns, 1))
    source, giver = (np.concatenate(parts) if parts else np.zeros(0, int) for parts in (source, giver))
    order = np.lexsort((source, number[source], giver))
    source, giver = source[order], giver[order]
    parts = {key: source[rows] for key, rows in _grouped(giver)}

    none = np.zeros(0, np.int64)
    blocks, givers = {}, {key: [] for key in owners}
    for key, given in parts.items():
        for owner, which in _grouped(number[given]):
            rows = np.searchsorted(owners[owner][1], given[which])
            givers[owner].append((divmod(int(key), n_columns), slice(int(which[0]), int(which[-1]) + 1), rows))
    for key in sorted(owners.keys() | parts.keys()):
        inner, outer = owners.get(key, (none, none))
        i, j = divmod(int(key), n_columns)
        origin = np.array([edges[0][i], edges[1][j]])
        rows = np.concatenate([inner, outer])
        corners = peaks[parts.get(key, none)] - reach - origin
        blocks[i, j] = _Block(inner, outer, peaks[rows] - origin, labels[rows], corners, givers.get(key, []))
    return blocks


def _homes(chunks, peaks: np.ndarray) -> list[np.ndarray]:
    """Group sources by the block that has their brightest pixel."""
    home = [np.searchsorted(block_edges(axis), peaks[:, i], side="right") - 1 for i, axis in enumerate(chunks)]
    return [rows for _, rows in _grouped(home[0] * len(chunks[1]) + home[1])]


def _grouped(number: np.ndarray):
    """Give every number that there is, with the places where it is, in their order."""
    order = np.argsort(number, kind="stable")
    bounds = np.flatnonzero(np.diff(number[order])) + 1
    return [(int(number[rows[0]]), rows) for rows in np.split(order, bounds) if len(rows)]


# Tasks ---------------------------------------------------------------------------------------------------


def _computed(planes, blocks, sky_std, how):
    """Give the sources of every block, as rows, and what was measured of them."""
    arrays = list(planes.values())
    token = tokenize([array.name for array in arrays], list(blocks.items()), sky_std, how)
    cut, measured = f"cut-{token}", f"measured-{token}"
    chunks = planes["image"].chunks
    graph, owning = {}, [index for index, block in blocks.items() if len(block.labels)]
    for (i, j), block in blocks.items():
        task = partial(_measure_and_cut, list(planes), sky_std, how, block._replace(givers=[]))
        graph[cut, i, j] = (task, [(array.name, i, j) for array in arrays])
    for k, index in enumerate(owning):
        block = blocks[index]
        parts = [(blocks[giver].corners[which], rows, (chunks[0][giver[0]], chunks[1][giver[1]]), which)
                 for giver, which, rows in block.givers]  # fmt: skip
        task = partial(_join_and_measure, how, block.labels[len(block.inner) :], parts)
        graph[measured, k] = (task, (cut, *index), [(cut, *giver) for giver, _, _ in block.givers])
    graph = HighLevelGraph.from_collections(measured, graph, dependencies=arrays)
    parts = da.Array(graph, measured, ((1,) * len(owning),), meta=np.empty(0, object)).compute()
    return [(np.concatenate([blocks[index].inner, blocks[index].outer]), part)
            for index, part in zip(owning, parts, strict=True)]  # fmt: skip


def _computed_from_files(readers, groups, peaks, labels, sky_std, how):
    """Give the sources of every group, as rows, and what was measured of them."""
    token = tokenize(list(readers.values()), peaks, labels, sky_std, how)
    name = f"measured-{token}"
    graph: dict = {f"reader-{plane}-{token}": reader for plane, reader in readers.items()}
    keys = list(graph)
    for k, rows in enumerate(groups):
        graph[name, k] = (partial(_measure_windows, list(readers), sky_std, how, peaks[rows], labels[rows]), keys)
    parts = da.Array(graph, name, ((1,) * len(groups),), meta=np.empty(0, object)).compute()
    return zip(groups, parts, strict=True)


def _measure_windows(names, sky_std, how, peaks, labels, readers):
    """Measure sources in windows that are read from files."""
    reach, planes = reach_of(how["width"], how["size"]), dict(zip(names, readers, strict=True))
    side = 2 * reach + 1
    windows = {name: _read_windows(planes[name], peaks - reach, side) for name in planes if name != "sigma"}
    if windows["image"].dtype not in (np.float32, np.float64):
        windows["image"] = windows["image"].astype(np.float64)
    if sky_std is None:
        variance = _read_windows(planes["sigma"], peaks, 1)[:, 0].astype(np.float64) ** 2
    else:
        variance = np.full(len(labels), float(sky_std) ** 2)
    starts = np.stack([np.arange(len(labels)) * side + reach, np.full(len(labels), reach)], axis=1)
    boxed = np.empty(1, object)
    boxed[0] = measure_shapes(
        windows["image"], as_labels(windows["labels"]), windows.get("mask"), variance, starts, labels, **how
    )  # fmt: skip
    return boxed


def _read_windows(plane: FitsPlane, corners: np.ndarray, side: int) -> np.ndarray:
    """Read windows below one another, as :func:`empty_windows` has them."""
    fill = np.nan if plane.dtype.kind == "f" else 0
    return read_stamps(*corners.T, side, fill, plane).reshape(-1, side)


def _measure_and_cut(names, sky_std, how, block: _Block, arrays):
    """Measure the inner sources, and give the noise at the outer ones, and parts of windows of every plane."""
    planes = dict(zip(names, arrays, strict=True))
    image, labels = in_rows(planes["image"]), in_rows(as_labels(planes["labels"]))
    mask = in_rows(planes["mask"]) if "mask" in planes else None
    if image.dtype not in (np.float32, np.float64):
        image = image.astype(np.float64)
    if sky_std is None:
        variance = planes["sigma"][block.starts[:, 0], block.starts[:, 1]].astype(np.float64) ** 2
    else:
        variance = np.full(len(block.starts), float(sky_std) ** 2)
    n = len(block.inner)
    measured = measure_shapes(
        image, labels, mask, variance[:n], block.starts[:n], block.labels[:n], **how
    )  # fmt: skip
    side = 2 * reach_of(how["width"], how["size"]) + 1
    pieces = [cut_windows(plane, in_rows(block.corners), side) if plane is not None and len(block.corners) else None
              for plane in (image, labels, mask)]  # fmt: skip
    return measured, variance[n:], pieces


def _join_and_measure(how, labels, parts, own, givers):
    """Put windows together, and give the inner and the outer sources of a block."""
    measured, variance, _ = own
    boxed = np.empty(1, object)
    boxed[0] = measured
    if len(labels) == 0:
        return boxed
    reach = reach_of(how["width"], how["size"])
    side = 2 * reach + 1
    whole = []
    for plane in range(3):
        windows = None
        for (corners, rows, shape, which), (_, _, pieces) in zip(parts, givers, strict=True):
            if pieces[plane] is None:
                continue
            piece = pieces[plane][which.start * side : which.stop * side]
            if windows is None:
                windows = empty_windows(len(labels), side, piece.dtype)
            paste_windows(piece, corners, rows, shape, windows)
        whole.append(windows)
    starts = np.stack([np.arange(len(labels)) * side + reach, np.full(len(labels), reach)], axis=1)
    outer = measure_shapes(whole[0], whole[1], whole[2], variance, starts, labels, **how)
    boxed[0] = np.concatenate([measured, outer])
    return boxed
