"""Python client of a Weighbridge server; imports nothing else of the package."""
