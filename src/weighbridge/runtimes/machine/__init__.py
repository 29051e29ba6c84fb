"""What a node has for its engines."""
