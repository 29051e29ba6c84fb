"""Benchmarks: each module has `run()`, which gives one Result or several; `python -m benchmarks [name …]` runs them."""
