"""The database: engines, sessions, tables, migrations, and signals between processes."""
