"""Drains that are not waited for to their end."""
