"""Versions brought to nodes before a replica asks for them."""
