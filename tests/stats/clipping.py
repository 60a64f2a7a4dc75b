"""Clipping by its definition, on all values at once, and images of many kinds of values."""

import numpy as np
import pytest

__all__ = ["NAMES", "assert_matches", "clip_sorted", "field"]


def clip_sorted(image, sigma, maxiters):
    """The definition, on all values at once."""
    values = np.sort(image[np.isfinite(image)].astype("f8"))
    iterations = 0
    while True:
        median = values[(len(values) - 1) // 2] / 2 + values[len(values) // 2] / 2
        unit = max(abs(values[0]), abs(values[-1])) or 1.0
        offsets = values / unit - median / unit
        std = np.std(offsets) * unit
        with np.errstate(over="ignore"):
            kept = np.abs(values - median) <= sigma * std * (1 + 1e-12)
        if kept.all() or (maxiters is not None and iterations >= maxiters):
            return np.mean(offsets) * unit + median, median, std
        values = values[kept]
        iterations += 1


def assert_matches(found, expected):
    mean, median, std = expected
    assert found[1] == pytest.approx(median, rel=1e-15, abs=5e-324)
    assert found[0] == pytest.approx(mean, rel=1e-13, abs=1e-10 * std + 5e-324)
    assert found[2] == pytest.approx(std, rel=1e-10, abs=np.spacing(abs(median)))


def field(name, shape=(300, 257)):
    rng = np.random.default_rng(8)
    return {
        "normal": lambda: rng.normal(0, 1, shape),
        "sky and sources": lambda: rng.normal(100, 3, shape) + (rng.uniform(size=shape) < 0.2) * rng.pareto(1, shape),
        "Cauchy": lambda: rng.standard_cauchy(shape),
        "lognormal over 40 decades": lambda: rng.lognormal(0, 15, shape),
        "high level": lambda: 3e7 + rng.normal(0, 1, shape),
        "tiny": lambda: rng.normal(1e-12, 3e-13, shape),
        "denormal": lambda: rng.normal(0, 1e-310, shape),
        "squares overflow": lambda: rng.normal(0, 1e200, shape),
        "smallest negatives": lambda: rng.choice([-(2.0**-1030), -1e20, 1e20], shape, p=[0.6, 0.2, 0.2]),
        "tiny and huge": lambda: np.where(rng.uniform(size=shape) < 1e-3, 1e300, rng.normal(1e-12, 3e-13, shape)),
        "extreme": lambda: rng.choice([-1.7e308, -1.0, 0.0, 1e-300, 1.0, 1.6e308], shape),
        "mostly equal": lambda: np.where(rng.uniform(size=shape) < 0.9, 0.1, rng.normal(0, 1, shape)),
        "gradient": lambda: rng.normal(0, 1, shape) + np.linspace(0, 1e4, shape[0])[:, None],
        "a block of rubbish": lambda: rng.normal(5, 1, shape) * np.where(np.arange(shape[0]) < 20, 1e25, 1)[:, None],
        "infinities": lambda: np.where(rng.uniform(size=shape) < 0.3, np.inf, rng.normal(5, 1, shape)),
    }[name]()


NAMES = [
    "normal", "sky and sources", "Cauchy", "lognormal over 40 decades", "high level", "tiny", "denormal",
    "squares overflow", "smallest negatives", "tiny and huge", "extreme", "mostly equal", "gradient",
    "a block of rubbish", "infinities",
]  # fmt: skip
