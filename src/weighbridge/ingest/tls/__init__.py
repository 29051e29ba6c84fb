"""TLS to S3 at the speed of the cipher: by OpenSSL itself where it can be called, by Python's `ssl` elsewhere."""
