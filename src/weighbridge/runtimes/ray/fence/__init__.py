"""Which controller leads the replicas of a cluster, as the cluster itself knows it."""
