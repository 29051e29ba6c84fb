"""What the control plane and the gateway tell each other: routing table, key table, acks."""
