"""The database: engines, sessions, tables, migrations, and what other processes are told by it."""
