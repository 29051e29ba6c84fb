"""Logs, metrics and usage."""
