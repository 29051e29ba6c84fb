"""Commands about acceptance probes."""
