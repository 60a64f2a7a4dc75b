"""The field of the class's tests: a target in the middle, a neighbour 30 pixels to its right."""

SHAPE = (201, 241)
RA, DEC = 150.0, 2.0  # the middle
