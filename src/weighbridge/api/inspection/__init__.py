"""Management routes that look and change nothing: the S3 doctor, and how two versions differ."""
