"""Inference requests: decoded, checked, and written anew for the engine (G9)."""
