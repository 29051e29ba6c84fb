"""What a node does with a version before an engine loads it: bring it here, verify it once, make room for it."""
