"""A network from outside: one call of it, the tensors in its outputs, and a copy of it."""
