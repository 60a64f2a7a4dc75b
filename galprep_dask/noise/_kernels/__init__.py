"""Noise of one block: the sigma of its pixels, moments of its blocks of pixels, and what clipping does to a Gaussian."""
