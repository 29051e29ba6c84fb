"""Deployments that stay beside their base with a share of the requests."""
