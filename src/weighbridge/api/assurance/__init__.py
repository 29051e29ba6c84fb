"""Routes by which users convince themselves: receipts of deployments, acceptance probes."""
