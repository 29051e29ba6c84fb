"""What a deployment would do: the planner run forward on values, with paces from an endpoint's own history."""
