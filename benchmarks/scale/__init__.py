"""A fleet of a thousand endpoints on two hundred recorded nodes, and the times on a real Ray cluster."""
