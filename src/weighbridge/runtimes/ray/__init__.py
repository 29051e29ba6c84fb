"""Replicas on a Ray cluster: a driver process that alone imports ray, and one actor per replica."""
