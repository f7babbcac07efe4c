"""The parts of ``tools/benchmark_quality.py``: task, networks, recipe, methods, records and report."""
