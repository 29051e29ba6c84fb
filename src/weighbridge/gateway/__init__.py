"""The data plane: authenticates, routes and relays inference requests."""
