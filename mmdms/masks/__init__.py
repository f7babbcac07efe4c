"""Masks on a network: of channels, heads and blocks, and of single weights."""
