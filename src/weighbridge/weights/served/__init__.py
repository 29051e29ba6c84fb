"""The weight server: versions over HTTP to nodes that were given a token for them."""
