"""Noise of one block: sigma of its pixels, scatter of its squares; and what clipping makes of a Gaussian."""
