"""Images and chunkings for hypothesis."""

import dask.array as da
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

__all__ = ["chunked", "chunkings", "images", "pixels"]


@st.composite
def chunkings(draw, length):
    """Chunk sizes of one axis, ragged, from single pixels to one chunk."""
    cuts = draw(st.lists(st.integers(1, length - 1), unique=True, max_size=8)) if length > 1 else []
    edges = [0, *sorted(cuts), length]
    return tuple(stop - start for start, stop in zip(edges[:-1], edges[1:], strict=True))


def pixels(dtype, *, finite=False):
    """Pixel values of a dtype; floats with NaN and infinities unless ``finite``."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f" and finite:
        return st.floats(-1e4, 1e4, width=8 * dtype.itemsize, allow_subnormal=False)
    return hnp.from_dtype(dtype)


@st.composite
def images(draw, dtype="f4", *, finite=False, max_side=24):
    """A two-dimensional NumPy image."""
    shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
    return draw(hnp.arrays(dtype, shape, elements=pixels(dtype, finite=finite)))


@st.composite
def chunked(draw, dtype="f4", *, finite=False, max_side=24):
    """A NumPy image and the same as a raggedly chunked dask array."""
    image = draw(images(dtype, finite=finite, max_side=max_side))
    image.flags.writeable = False
    chunks = tuple(draw(chunkings(length)) for length in image.shape)
    return image, da.from_array(image, chunks=chunks, name=False)
