"""Draw docs/figures/sky_bias.svg: the bias of fitted skies on simulated fields of n = 4 galaxies and bright stars.

Run ``PYTHONPATH=tests python benchmarks/sky_bias.py`` in the root of the project. It prints what it draws.
"""

from functools import partial
from pathlib import Path

import dask.array as da
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from fields import de_vaucouleurs_field, polynomial_sky

from galprep_dask.sky import fit_polynomial_sky, fit_sky_between_sources

SHAPE = (1024, 1024)
ORDERS = (1, 2, 3, 4, 5)
SEEDS = (0, 1, 2)


def between(image, fit, **kwargs):
    return fit_sky_between_sources(image, fit=fit, fwhm=3.0, **kwargs)[0]


WAYS = {
    "clipping alone": lambda image, fit: fit(image, None),
    "sources and their growth masked": partial(between, faint_scales=()),
    "and faint light, as by default": between,
}


def biases(way):
    """Mean of fitted minus true sky over the image, in units of the noise of a pixel, (seeds, orders)."""
    found = np.empty((len(SEEDS), len(ORDERS)))
    for k, seed in enumerate(SEEDS):
        light = de_vaucouleurs_field(SHAPE, seed=seed)
        for m, order in enumerate(ORDERS):
            truth = polynomial_sky(SHAPE, order, seed=seed)
            noise = np.random.default_rng(seed + 10).normal(0, 1, SHAPE) * np.sqrt(1 + light / 10)
            image = da.from_array((truth + light + noise).astype(np.float32), chunks=512)
            sky = way(image, partial(fit_polynomial_sky, order=order))
            found[k, m] = (sky.evaluate() - truth).mean().compute()
    return found


def main():
    mpl.rcParams["svg.hashsalt"] = "sky_bias"
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    axes.axhspan(-0.01, 0.01, color="0.92")
    axes.axhline(0, color="0.6", lw=0.8)
    for way, marker in zip(WAYS, "s^o", strict=True):
        found = biases(WAYS[way])
        print(way, "\n", np.round(found, 4))
        axes.errorbar(ORDERS, found.mean(axis=0), np.ptp(found, axis=0) / 2, marker=marker, capsize=3, label=way)
    axes.set(xlabel="order of the polynomial", ylabel="mean bias of the sky / noise of a pixel", xticks=ORDERS)
    axes.legend(frameon=False)
    figure.savefig(Path(__file__).parents[1] / "docs" / "figures" / "sky_bias.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
