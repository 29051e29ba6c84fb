"""The schema of the database: what this program needs, and how it gets there."""
