"""How the weights of replicas come to the nodes that run them."""
