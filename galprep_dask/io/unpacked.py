"""Pixels that had to be unpacked, kept a while for whoever asks next.

A tile comes out whole, whatever little of it is wanted: where tiles are rows, as fpack makes them, chunks side by side
want the same ones, and an image that is fitted in many passes wants them all again in each. What was unpacked last is
therefore kept by the process, within a bound, and threads that want the same tiles wait for the one that unpacks them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import numpy as np

__all__ = ["Unpacked"]

Region = tuple[slice, ...]


class _Box:
    """Part of an image, and its pixels as soon as somebody has unpacked them."""

    def __init__(self, image: Hashable, region: Region):
        self.image = image
        self.region = region
        self.lock = threading.Lock()
        self.pixels: np.ndarray | None = None

    def holds(self, image: Hashable, region: Region) -> bool:
        return self.image == image and all(
            mine.start <= axis.start and axis.stop <= mine.stop for mine, axis in zip(self.region, region, strict=True)
        )

    def view(self, region: Region) -> np.ndarray:
        starts = [mine.start for mine in self.region]
        return self.pixels[
            tuple(slice(axis.start - start, axis.stop - start) for axis, start in zip(region, starts, strict=True))
        ]


class Unpacked:
    """
    The boxes of pixels that were unpacked last.

    Parameters
    ----------
    n_bytes : int
        What is kept at most; a box of more pixels is handed out and forgotten.
    n_boxes : int
        Boxes that are kept at most.

    Examples
    --------
    >>> unpacked, image = Unpacked(n_bytes=1000), np.arange(20).reshape(4, 5)
    >>> rows, row = (slice(0, 2), slice(0, 5)), (slice(1, 2), slice(2, 4))
    >>> unpacked.read("image", row, rows, lambda: image[rows].copy()).tolist()
    [[7, 8]]
    >>> unpacked.read("image", row, rows, None).tolist()  # is there already
    [[7, 8]]
    """

    def __init__(self, n_bytes: int, n_boxes: int = 64):
        self.n_bytes = n_bytes
        self.n_boxes = n_boxes
        self._lock = threading.Lock()  # of the list; a box is unpacked under its own
        self._boxes: list[_Box] = []  # that used last at the end

    def read(self, image: Hashable, region: Region, around: Region, unpack: Callable[[], np.ndarray]) -> np.ndarray:
        """
        Give the pixels of ``region``, read-only.

        Parameters
        ----------
        image : hashable
            What tells the image from all others.
        region : tuple of slice
            The pixels wanted.
        around : tuple of slice
            The region that has to be unpacked for them.
        unpack : callable
            Gives the pixels of ``around``; called where they are not kept already.

        Returns
        -------
        array
            A view of what is kept.
        """
        box = self._box(image, region, around)
        with box.lock:
            if box.pixels is None:
                try:
                    pixels = unpack()
                except BaseException:
                    self._forget(box)
                    raise
                pixels.flags.writeable = False
                box.pixels = pixels
                self._drop_oldest()
            return box.view(region)

    def _box(self, image, region, around) -> _Box:
        with self._lock:
            box = next((box for box in self._boxes if box.holds(image, region)), None)
            if box is None:
                box = _Box(image, around)
            else:
                self._boxes.remove(box)
            self._boxes.append(box)
            return box

    def _forget(self, box: _Box) -> None:
        with self._lock:
            if box in self._boxes:
                self._boxes.remove(box)

    def _drop_oldest(self) -> None:
        with self._lock:
            total = sum(box.pixels.nbytes for box in self._boxes if box.pixels is not None)
            for box in list(self._boxes):
                if total <= self.n_bytes and len(self._boxes) <= self.n_boxes:
                    return
                if box.pixels is not None:  # else somebody is at it
                    self._boxes.remove(box)
                    total -= box.pixels.nbytes
