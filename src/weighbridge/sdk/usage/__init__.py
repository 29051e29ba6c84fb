"""Limits of keys and endpoints, and reports of what was used."""
