"""Images and chunkings for hypothesis."""

import dask.array as da
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

__all__ = ["chunked", "chunkings", "chunks_for", "images", "pixels", "scenes"]


@st.composite
def chunkings(draw, length):
    """Chunk sizes of one axis, ragged, from single pixels to one chunk."""
    cuts = draw(st.lists(st.integers(1, length - 1), unique=True, max_size=8)) if length > 1 else []
    edges = [0, *sorted(cuts), length]
    return tuple(stop - start for start, stop in zip(edges[:-1], edges[1:], strict=True))


def chunks_for(shape):
    """Ragged chunks of an array of a given shape."""
    return st.tuples(*[chunkings(length) for length in shape])


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


@st.composite
def scenes(draw, *, min_side=1, max_side=40, noise=1.0):
    """
    Image, mask and ragged chunks: blobs of many sizes on noise, some pixels masked.

    Drawn by number, not pixel by pixel: sources that cross chunks are the rule. Both arrays are read-only.
    """
    shape = draw(st.tuples(*[st.integers(min_side, max_side)] * 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y, x = np.indices(shape)
    image = rng.normal(0, noise, shape)
    for _ in range(draw(st.integers(0, 6))):
        width, height = rng.uniform(0.7, 5, 2)
        y0, x0 = rng.uniform(0, 1, 2) * shape
        image += rng.uniform(3, 60) * np.exp(-0.5 * (((x - x0) / width) ** 2 + ((y - y0) / height) ** 2))
    mask = rng.uniform(size=shape) < draw(st.sampled_from([0.0, 0.05, 0.3]))
    image.flags.writeable = mask.flags.writeable = False
    return image, mask, draw(chunks_for(shape))
