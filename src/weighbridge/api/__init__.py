"""The management, admin and extension HTTP API."""
