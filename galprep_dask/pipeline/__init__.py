"""From a list of targets to files that a fit can start from."""
