"""Machines that serve inference beside the controller's: who they are, and what they say of their workers."""
