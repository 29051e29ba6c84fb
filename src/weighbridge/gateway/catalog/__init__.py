"""What callers are told of endpoints: the lists of models, in each of their formats."""
