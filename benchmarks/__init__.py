"""Benchmarks: each module has `run() -> Result`; `python -m benchmarks [name …]` runs them and writes results/."""
