"""The demo: a whole life of two model versions, with real parts only, in under two minutes."""
