"""The courier of a gateway: brings its tables from the database, takes its acks, loads and usage there."""
