"""What a driver knows of each of its actors."""
