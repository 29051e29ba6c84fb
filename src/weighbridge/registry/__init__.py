"""Model architectures, model versions and aliases."""
