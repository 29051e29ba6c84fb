"""Commands about receipts of deployments."""
