"""Parts of benchmarks/run_speed.py."""
