"""Commands of limits and usage."""
