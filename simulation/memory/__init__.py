"""A database in memory that executes the stores' own statements, with PostgreSQL's transactions and row locks."""
