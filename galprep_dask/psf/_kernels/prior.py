"""The arrays that say what is known of P beforehand."""

from typing import Any, NamedTuple

__all__ = ["Prior"]


class Prior(NamedTuple):
    """What is known of P before the stars are seen; NumPy or JAX arrays."""

    start: Any  #: (m, N, N) P that an oversampled fit is drawn to where the data say nothing
    spectrum: Any  #: (N, N // 2 + 1) information of the data per frequency, over the diagonal of the normal matrix
    strength: Any  #: (2, N, N // 2 + 1) information of the prior per frequency in the core and beyond, in the same unit
    window: Any  #: (2, N, N) roots of what belongs to the core, and of what lies beyond
    smooth: Any  #: (m, 1 or N, 1 or N // 2 + 1) the same of every coefficient, towards zero
    shrink: Any  #: (m, N, N) information on the coefficients, towards zero
