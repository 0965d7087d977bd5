"""Sessions of the pages that were ended: a cookie that was copied is worth nothing afterwards."""

from datetime import timedelta

from sqlalchemy import bindparam, delete, select

from match_server.db.database import Database
from match_server.db.tables import EndedSession
from shared.clock import Clock

SESSION_S = 30 * 24 * 3600
"""A session ends by itself after that, so who ended one before need not be remembered longer."""

_ENDED = select(EndedSession.id).where(EndedSession.id == bindparam("id"))


class PageSessions:
    """Ending sessions, for all processes of the server at once."""

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
