"""How two versions differ: a digest for each tensor, kept beside the weight store, and the size of a change."""
