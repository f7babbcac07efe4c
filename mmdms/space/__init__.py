"""The search space: its units, the structures in it, and the cost of each."""
