"""The parts of ``benchmarks/run_quality.py``: task, networks, recipe, methods, records and report."""
