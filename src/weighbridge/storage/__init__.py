"""The database: schema, connections, leases, migrations, and the embedded PostgreSQL."""
