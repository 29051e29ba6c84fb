"""What a request may use and when it is its turn: quotas over all workers of a host, and a fair queue."""
