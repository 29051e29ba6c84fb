"""The S3 side of a weight sync: access by role, faults a customer can act on, and reading one folder."""

from weighbridge.ingest.s3.access import S3Access

__all__ = ["S3Access"]
