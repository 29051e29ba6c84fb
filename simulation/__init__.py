"""Deterministic simulation, from one seed: the real control plane on a simulated clock, database, machines, gateway."""
