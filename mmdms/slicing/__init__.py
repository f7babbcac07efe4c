"""Cut a network down to a structure."""
