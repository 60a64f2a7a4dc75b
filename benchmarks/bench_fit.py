"""
Galaxies fitted from cutout files by a code that is not ours: how far from the truth, and how much of that is ours.

Run ``PYTHONPATH=tests python benchmarks/bench_fit.py [--galaxies N] [--seed S]``; it needs pysersic. Simulated
galaxies go through sky subtraction, sigma image, cutout, mask and file, and pysersic fits what is in the files with a
free sky. The same is done with files that a perfect preparation would have written (true sky, true sigma, no
neighbours and no mask), from the same noisy pixels: what both share is noise, and the other code. See README.md
beside this file.
"""

import argparse
import tempfile
import time

import numpy as np
from galaxy_fits import fit_with_pysersic, galaxy_mosaic, prepare_cutouts, write_true_cutouts
from harness import machine

PARAMETERS = {"flux": "flux", "Re": "r_eff", "n": "n"}


def robust_std(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--galaxies", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    print(machine() + "\n")
    n = options.galaxies
    image, truth, light, psf = galaxy_mosaic(n, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ours = prepare_cutouts(image, truth, psf, folder)
        prepared = time.perf_counter() - start
        perfect = write_true_cutouts(image, truth, light, psf, folder)
        start = time.perf_counter()
        fits = fit_with_pysersic([*ours, *perfect])
        fitted = time.perf_counter() - start
    print(f"{n} galaxies, {image['data'].shape[0]} x {image['data'].shape[1]} px: prepared in {prepared:.0f} s, "
          f"2 x {n} fits in {fitted:.0f} s")  # fmt: skip
    print(f"{'files':8} {'what':5} {'pull: median':>13} {'scatter':>8} {'std':>6} {'> 3':>4} "
          f"{'bias: median':>13} {'scatter':>8}")  # fmt: skip
    values = {}
    for name, part in (("ours", fits[:n]), ("perfect", fits[n:])):
        for label, key in PARAMETERS.items():
            value, error = np.array([fit[key] for fit in part]).T
            true = np.asarray(truth.targets[key], dtype=float)
            pull, bias = (value - true) / error, value / true - 1
            values[name, label] = value, error
            print(f"{name:8} {label:5} {np.median(pull):+13.2f} {robust_std(pull):8.2f} {pull.std():6.2f} "
                  f"{(np.abs(pull) > 3).sum():4d} {np.median(bias):+13.2%} {robust_std(bias):8.2%}")  # fmt: skip
    for label in PARAMETERS:
        (value, error), (reference, _) = values["ours", label], values["perfect", label]
        moved = (value - reference) / error
        print(f"ours - perfect, {label:5}: median {np.median(moved):+.2f} of the error, "
              f"scatter {robust_std(moved):.2f}; median {np.median(value / reference - 1):+.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
