"""Engines: the programs that replicas run, as data and small adapters."""
