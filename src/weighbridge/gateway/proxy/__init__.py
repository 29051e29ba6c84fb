"""What the gateway does with a request: which path it is, who may ask, and the replica or socket that answers."""
