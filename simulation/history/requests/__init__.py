"""Checks of what callers met: at the gateways, on each host, while held."""
