"""Arithmetic of the clipped statistics: cells of one block, windows from cells, the clipping itself."""
