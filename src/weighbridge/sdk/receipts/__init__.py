"""Receipts of deployments: their file format, and checking one without a server."""
