"""Budgets: cost tables, projection of keep ratios, and the final fit."""
