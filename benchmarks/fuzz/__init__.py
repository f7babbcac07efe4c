"""Random networks of real layers, each taken through search space, search, slice, save, load and copy."""
