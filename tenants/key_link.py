"""A process's line to PostgreSQL about keys: hears which have changed, writes down which were used. Knows no Django."""

from collections.abc import Callable
from contextlib import closing
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Generic, TypeVar
from uuid import UUID

import psycopg
import structlog

from tenants.key_cache import CHANNEL, KeyCache

logger = structlog.get_logger(__name__)

V = TypeVar("V")

BEAT_SECONDS = 0.25
"""Between two round trips; well below the time that the cache is believed for one of them."""
WRITE_SECONDS = 10
RECONNECT_SECONDS = 0.5

# Rows are locked in one order, against other processes that do the same. Whoever changes many keys at once may take
# another one; of two that wait for each other this one gives up, before PostgreSQL would choose (deadlock_timeout).
_SET_UP = f"LISTEN {CHANNEL}; SET lock_timeout = '500ms'"
_WRITE = """
WITH used AS (
    SELECT id, now() - make_interval(secs => age) AS at FROM unnest(%s::uuid[], %s::float8[]) AS use (id, age)
), due AS (
    SELECT key.id FROM tenants_apikey key JOIN used USING (id)
    WHERE key.last_used_at IS NULL OR key.last_used_at < used.at - interval '1 minute'
    ORDER BY key.id FOR NO KEY UPDATE OF key
)
UPDATE tenants_apikey key SET last_used_at = used.at FROM used JOIN due USING (id) WHERE key.id = used.id
"""


class KeyLink(Generic[V]):
    """One thread with one connection, from :meth:`start` to :meth:`close`; it reconnects by itself."""

    def __init__(self, *, cache: KeyCache[V], connect: Callable[[], psycopg.Connection[Any]]) -> None:
        """``connect`` opens a connection in autocommit mode, to the primary, that may write keys of all tenants."""
        self.cache = cache
        self._connect = connect
        self._lock = Lock()
        self._uses: dict[UUID, float] = {}
        self._closing = Event()
        self._thread = Thread(target=self._run, name="key-link", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def close(self) -> None:
        """Write down what is left, if that is possible, and end the thread."""
        self._closing.set()
        self._thread.join(timeout=5)

    def note_use(self, key_id: UUID) -> None:
        """The key was used just now; its row says so to the minute, within seconds."""
        with self._lock:
            self._uses[key_id] = monotonic()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with closing(self._connect()) as connection:
                    self._listen(connection)
            except psycopg.Error as error:
                logger.warning("keys are not cached: no connection to listen on", error=type(error).__name__)
            finally:
                self.cache.doubt()
            self._closing.wait(RECONNECT_SECONDS)

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(_SET_UP)
        self.cache.forget_all()
        write_at = monotonic() + WRITE_SECONDS
        while not self._closing.is_set():
            started = monotonic()
            connection.execute("SELECT 1")
            self._hear(connection, seconds=0)
            self.cache.believe(since=started)
            if started >= write_at:
                self._write_uses(connection)
                write_at = started + WRITE_SECONDS
            self._hear(connection, seconds=BEAT_SECONDS)
        self._write_uses(connection)

    def _hear(self, connection: psycopg.Connection[Any], *, seconds: float) -> None:
        """Take the messages that are there, and those that come within the time."""
        for message in connection.notifies(timeout=seconds):
            self.cache.forget(message.payload)

    def _write_uses(self, connection: psycopg.Connection[Any]) -> None:
        with self._lock:
            uses, self._uses = self._uses, {}
        if not uses:
            return
        now = monotonic()
        try:
            connection.execute(_WRITE, [list(uses), [now - used_at for used_at in uses.values()]])
        except psycopg.Error as error:
            with self._lock:
                self._uses = uses | self._uses  # for the next time; of two uses the later one
            if not isinstance(error, psycopg.errors.LockNotAvailable):
                raise
