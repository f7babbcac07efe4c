"""Pure functions: soft and hard top-k, ranking, importance."""
