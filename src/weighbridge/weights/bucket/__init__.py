"""The weight store in an S3-compatible bucket of the operator's, with a cache of it on each node."""
