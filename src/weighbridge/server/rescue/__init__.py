"""Backup and restore of what cannot be made again, but for the weight store."""
