"""Sky of one block: Chebyshev sums and values, statistics of boxes, values of a spline, means of bins."""
