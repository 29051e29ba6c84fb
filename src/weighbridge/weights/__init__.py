"""The weight store and the formats that lie in it."""
