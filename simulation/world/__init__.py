"""What surrounds the control plane in a simulation: machines, engines, gateways, callers, people and misfortune."""
