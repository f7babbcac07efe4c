"""Parts of tools/benchmark_speed.py."""
