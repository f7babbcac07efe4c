"""Datasets that need no download."""

from .digits import DigitsDataset

__all__ = ['DigitsDataset']
