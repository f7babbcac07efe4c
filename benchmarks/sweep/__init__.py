"""Walks a zoo: every family traced, pruned at random, sliced, compared, trained one step, exported and reloaded."""
