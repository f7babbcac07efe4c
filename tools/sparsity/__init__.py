"""The parts of ``tools/benchmark_sparsity.py``: networks, methods, runner and report."""
