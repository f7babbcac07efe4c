"""The parts of ``benchmarks/run_sparsity.py``: networks, methods, runner and report."""
