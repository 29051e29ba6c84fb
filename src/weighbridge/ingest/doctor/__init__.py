"""The S3 doctor: each step of reading a folder probed apart, with the cause and the statement to paste."""
