"""Benchmarks: each module has `run() -> Result` (or several); `python -m benchmarks [name …]` runs them and writes results/."""
