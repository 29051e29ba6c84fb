"""Usage: what each request used, from the gateway's spool files into the database, and the reports of it."""
