"""Commands that look and change nothing: the S3 doctor, the difference of versions, the set-up of a bucket."""
