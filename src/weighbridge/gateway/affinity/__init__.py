"""Affinity: which requests are alike, and the replica that requests of one kind go to. Pure."""
