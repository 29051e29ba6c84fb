"""Endpoints: the names that clients call, and their capacity."""
