"""What the gateway tells its operator: one log event per request, and figures for /metrics."""
