"""Deployments and the rollouts that carry them out."""
