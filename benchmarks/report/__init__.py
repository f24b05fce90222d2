"""The tables and pictures of the documents, made from `results/` alone: `python -m benchmarks.report [--check]`."""
