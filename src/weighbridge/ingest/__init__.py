"""The weight sync: from a customer's S3 prefix into the weight store, checked on the way."""
