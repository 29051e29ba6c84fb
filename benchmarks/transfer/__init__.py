"""The programs that the ingest benchmark compares, and the origin they all read from."""
