"""Stand-ins under the real planners and reconcilers: a node, a gateway, a machine of both, a world of replicas."""
