"""Command-line interface; talks to a server through weighbridge.sdk only."""
