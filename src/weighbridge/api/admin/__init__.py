"""Routes of the operator: orgs, keys, architectures, endpoints, and what runs."""
