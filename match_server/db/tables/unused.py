"""Tables that older versions used. The next migration that changes the database drops them.

They stay described here, because a backup holds every table of its migration (decision 42).
"""

from sqlalchemy import Column
from sqlalchemy import Table as SqlTable

from match_server.db.tables.base import Name, Table, UtcTime, Uuid

SqlTable(
    "leases",
    Table.metadata,
    Column("name", Name, primary_key=True),
    Column("holder", Uuid, nullable=False),
    Column("until", UtcTime, nullable=False),
)
