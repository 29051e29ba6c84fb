"""Deterministic simulation: the real control plane on a simulated clock, database, machines and gateway, from one seed."""
