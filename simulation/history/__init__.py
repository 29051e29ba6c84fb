"""What happened in a simulated world, and the checks of the complete record against every invariant."""
