"""Ellipses, drawn into a block."""

from __future__ import annotations

import math

from numba import njit

__all__ = ["paint_ellipses"]


@njit(nogil=True, cache=True)
def paint_ellipses(drawn, y0, x0, label, x, y, major, minor, angle):
    """
    Draw ellipses into a block whose first pixel is (y0, x0) of the image, in place; the lowest label stays.

    Coordinates are those of the image, so that a pixel comes out the same whichever block it is in.
    """
    ny, nx = drawn.shape
    for i in range(len(label)):
        # At least a pixel wide.
        a, b = max(major[i], 0.5), max(minor[i], 0.5)
        cosine, sine = math.cos(angle[i]), math.sin(angle[i])
        for row in range(max(math.floor(y[i] - a), y0), min(math.ceil(y[i] + a) + 1, y0 + ny)):
            for column in range(max(math.floor(x[i] - a), x0), min(math.ceil(x[i] + a) + 1, x0 + nx)):
                dy, dx = row - y[i], column - x[i]
                along, across = (dx * cosine + dy * sine) / a, (dy * cosine - dx * sine) / b
                here = drawn[row - y0, column - x0]
                if along * along + across * across <= 1 and (here == 0 or label[i] < here):
                    drawn[row - y0, column - x0] = label[i]
