"""Follow every channel element through a network, and build its search space."""
