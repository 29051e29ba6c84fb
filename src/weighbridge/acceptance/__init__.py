"""Acceptance probes: what a new replica must answer before it serves anybody."""
