"""Slow evidence: each experiment is a module with CLAIM, SEEDS and ARMS; `benchmarks/run.py` runs them."""
