"""Replicas: started, probed, routed, drained and stopped as their rows wish."""
