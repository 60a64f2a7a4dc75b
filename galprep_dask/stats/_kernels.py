"""Statistics of one sorted array."""

from __future__ import annotations

import numpy as np

__all__ = ["clip_sorted", "good_values"]


def good_values(block: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Give the values of a block that are finite and not masked, one-dimensional."""
    good = np.isfinite(block)
    if mask is not None:
        good &= ~mask
    return block[good]


def clip_sorted(values: np.ndarray, sigma: float, maxiters: int | None) -> tuple[float, float, float]:
    """
    Mean, median and standard deviation of sorted values, clipped about the median until nothing changes.

    What is left after clipping is always a run of the sorted array, so that an iteration is two searches and
    two sums. Sorting also fixes the order of summation: chunks cannot change a bit of the result.
    """
    low, high = 0, len(values)
    iterations = 0
    while maxiters is None or iterations < maxiters:
        kept = values[low:high]
        median, std = _middle(kept), float(np.std(kept, dtype=np.float64))
        new_low = low + int(np.searchsorted(kept, median - sigma * std, side="left"))
        new_high = low + int(np.searchsorted(kept, median + sigma * std, side="right"))
        iterations += 1
        if (new_low, new_high) == (low, high):
            break
        low, high = new_low, new_high
    kept = values[low:high]
    # Adding zero makes 0.0 of -0.0, two equal values whose order sorting leaves to chance.
    return float(np.mean(kept, dtype=np.float64)) + 0.0, _middle(kept) + 0.0, float(np.std(kept, dtype=np.float64))


def _middle(values: np.ndarray) -> float:
    """Median of sorted values, in float64: in float32 the mean of two neighbours at 3e7 is one of them."""
    last = len(values) - 1
    low, high = float(values[last // 2]), float(values[(last + 1) // 2])
    return (low + high) / 2
