"""API keys, and ended sessions of the pages."""

from datetime import datetime

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Name, Table, UtcTime


class ApiKey(Table):
    """An API key, stored as a hash. `id` is the part of the key that finds the row."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    role: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(200))
    device: Mapped[str | None] = mapped_column(
        Name
    )  # role device: the device for which it may send
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)  # invalid from then on
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTime)  # a minute late at most


class EndedSession(Table):
    """A session of the pages that was ended by signing out."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    ended_at: Mapped[datetime] = mapped_column(UtcTime, index=True)
