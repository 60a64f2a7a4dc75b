"""Smoothing, labelling and measuring of one block, and merging of what blocks found."""
