"""What the figures share: shrinking to the size of a screen, robust levels, image panels, saving."""

from __future__ import annotations

import os

import dask.array as da
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from galprep_dask.arrays import ImageLike, as_image, check_same_shape
from galprep_dask.errors import NoGoodPixelsError
from galprep_dask.gsutils import normimg
from galprep_dask.io.atomic import atomic_path
from galprep_dask.stats import sigma_clipped_stats

#: Pixels on the longer side of a displayed image, at most.
MAX_SIDE = 1000

#: Bad pixels, in every colour map.
BAD_COLOUR = "0.72"

#: Masks, on the blue, white and red of the images.
MASK_COLOUR = "#1b9e3e"


def plane_of(image: ImageLike, name: str = "data") -> ImageLike | None:
    """Give a plane of an image Dataset, or None where it has none; an array is its own ``data``."""
    if hasattr(image, "data_vars"):  # a Dataset, recognised without importing xarray
        return image.get(name)
    return image if name == "data" else None


def steps(shape: tuple[int, int]) -> tuple[int, int]:
    """Give the sides in pixels of the boxes that become one displayed pixel each."""
    step = -(-max(shape) // MAX_SIDE)
    return min(step, shape[0]), min(step, shape[1])


def extent(shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Give the edges of the displayed image in pixels of the whole one, as ``imshow`` takes them."""
    ny, nx = (n // step * step for n, step in zip(shape, steps(shape), strict=True))
    return -0.5, nx - 0.5, -0.5, ny - 0.5


def shrink_mean(data: ImageLike, name: str, shape: tuple[int, int]) -> da.Array:
    """Average the finite pixels of boxes, lazily; NaN where there are none."""
    return _shrink(_finite_mean, data, name, shape)


def shrink_any(mask: ImageLike, name: str, shape: tuple[int, int]) -> da.Array:
    """Tell, lazily, whether any pixel of a box is set."""
    return _shrink(np.any, mask, name, shape)


def shrink_max(labels: ImageLike, name: str, shape: tuple[int, int]) -> da.Array:
    """Take the largest value of boxes, lazily."""
    return _shrink(np.max, labels, name, shape)


def _shrink(reduction, array: ImageLike, name: str, shape: tuple[int, int]) -> da.Array:
    array = as_image(array, name)
    check_same_shape(array, shape, name)
    return da.coarsen(reduction, array, dict(enumerate(steps(shape))), trim_excess=True)


def _finite_mean(values: np.ndarray, axis=None) -> np.ndarray:
    good = np.isfinite(values)
    count = np.count_nonzero(good, axis=axis)
    total = np.sum(values, axis=axis, dtype=np.float64, where=good)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def robust_levels(values: np.ndarray, bad: np.ndarray | None = None) -> tuple[float, float]:
    """Give the clipped median and standard deviation of the good pixels; 0 and 1 where they say nothing."""
    try:
        _, median, std = sigma_clipped_stats(values, bad)
    except NoGoodPixelsError:
        return 0.0, 1.0
    return median, std if std > 0 else 1.0


def diverging() -> Colormap:
    """Give blue for below the sky, white for the sky, red for above."""
    return mpl.colormaps["seismic"].with_extremes(bad=BAD_COLOUR)


def sequential() -> Colormap:
    """Give dark for small and bright for large."""
    return mpl.colormaps["viridis"].with_extremes(bad=BAD_COLOUR)


def show_scaled(axes: Axes, values: np.ndarray, shape: tuple[int, int], **scaling: float) -> AxesImage:
    """Show an image through ``normimg``."""
    return show(axes, normimg(values, **scaling), shape, cmap=diverging(), vmin=-1, vmax=1)


def show(axes: Axes, values: np.ndarray, shape: tuple[int, int], **kwargs) -> AxesImage:
    """Show what was shrunk from an image of ``shape``, with the pixel coordinates of that image."""
    return axes.imshow(values, origin="lower", interpolation="nearest", extent=extent(shape), **kwargs)


def overlay_mask(axes: Axes, mask: np.ndarray, shape: tuple[int, int], alpha: float = 0.5) -> AxesImage:
    """Colour the masked pixels and no others."""
    flat = ListedColormap([MASK_COLOUR])
    return show(axes, np.ma.masked_where(~mask, mask), shape, cmap=flat, alpha=alpha)


def outline_mask(axes: Axes, mask: np.ndarray, shape: tuple[int, int]) -> None:
    """Draw a line around the masked pixels."""
    if mask.any() and not mask.all() and min(mask.shape) > 1:  # else there is no line, and matplotlib warns
        axes.contour(mask, [0.5], colors=MASK_COLOUR, linewidths=1, origin="lower", extent=extent(shape))


def finish(figure: Figure, title: str | None, path: str | os.PathLike | None) -> Figure:
    """Put the title over a figure and save it as PNG if there is a path."""
    if title is not None:
        # Names of targets and files may hold any character; none of them starts a formula.
        figure.suptitle(str(title), parse_math=False)
    if path is not None:
        with atomic_path(path, overwrite=True) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    return figure
