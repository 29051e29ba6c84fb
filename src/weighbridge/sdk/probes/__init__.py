"""Acceptance probes through the admin API."""
