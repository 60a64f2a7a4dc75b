"""Simulated data with known truth, for a first look at the package, its tests and its benchmarks."""
