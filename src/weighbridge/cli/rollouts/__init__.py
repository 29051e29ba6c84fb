"""Commands about deployments and what comes of them."""
