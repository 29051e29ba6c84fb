"""The processes of a server: their mains, and the supervisor that starts and restarts them."""
