"""Compare a sliced network with its masked supernet in float64."""
