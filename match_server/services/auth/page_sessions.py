"""Ended sessions of the pages: a copied cookie is invalid after signing out."""

from datetime import timedelta

from sqlalchemy import bindparam, delete, select

from match_server.db.database import Database
from match_server.db.tables import EndedSession
from shared.clock import Clock

SESSION_S = 30 * 24 * 3600
"""The longest duration of a session. Ended sessions are remembered for as long."""

_ENDED = select(EndedSession.id).where(EndedSession.id == bindparam("id"))


class PageSessions:
    """Ends sessions for all processes of the server."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def has_ended(self, session_id: str) -> bool:
        return bool(self._database.execute(_ENDED, {"id": session_id}))

    def end(self, session_id: str) -> None:
        now = self._clock.now()
        old = now - timedelta(seconds=SESSION_S)
        with self._database.write() as session:
            session.execute(delete(EndedSession).where(EndedSession.ended_at < old))
            session.merge(EndedSession(id=session_id, ended_at=now))
