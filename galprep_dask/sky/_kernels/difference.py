"""A block minus its sky."""

from __future__ import annotations

import numpy as np

__all__ = ["difference"]


def difference(block: np.ndarray, sky, dtype) -> np.ndarray:
    """Subtract in float64, and round once to ``dtype``, without an image of float64 in between."""
    result = np.empty(block.shape, dtype)
    return np.subtract(block, sky, out=result, dtype=np.float64, casting="same_kind")
