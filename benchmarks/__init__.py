"""Benchmarks, in folders by what they measure: `python -m benchmarks [name …]`; `__main__` says where each is."""
