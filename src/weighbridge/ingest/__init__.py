"""Weight syncs: from a customer's S3 prefix to a version that is done."""
