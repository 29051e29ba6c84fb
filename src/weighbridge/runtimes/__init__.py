"""Where replicas run: the interface and its adapters (local processes, a Ray cluster)."""
