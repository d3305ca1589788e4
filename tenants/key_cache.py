"""What a process remembers of keys, never older than :data:`BELIEVED_SECONDS`. Knows no Django.

A key is read once and then served from memory until PostgreSQL says that it, its project or its organisation has
changed: triggers NOTIFY :data:`CHANNEL` in the transaction of the change, so no writer can forget it. Since a message
may be late or lost, memory is believed only for a moment after the *start* of the last round trip on the listening
connection (:mod:`tenants.key_link`): what was committed before then has arrived with its answer. Be that connection
cut or hanging, or its thread starved: nothing is served from here, and the table is asked.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

CHANNEL = "hone_keys"
"""Messages are ``key:<public id>`` and ``organization:<id>``, the latter for its projects, too."""
BELIEVED_SECONDS = 0.75
"""With what a message needs, below the second that a change is promised to take effect in."""
MAX_KEYS = 10_000
"""Some 40 MB of keys; the ones that were not used for longest make room."""

V = TypeVar("V")


@dataclass(frozen=True)
class _Entry(Generic[V]):
    value: V
    organization_id: str
    read_at: float


class KeyCache(Generic[V]):
    """Keys by public id, for any number of threads. Only keys that exist: guessed ones push nothing out.

    On a miss take a :meth:`ticket`, read the key, :meth:`put` it: what has changed since the ticket is not kept.
    """

    def __init__(self, *, max_age: float, max_keys: int = MAX_KEYS) -> None:
        """``max_age`` in seconds: the net below the messages."""
        self._max_age = max_age
        self._max_keys = max_keys
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()
        self._changes = 0
        self._believed_until = 0.0

    def get(self, public_id: str) -> V | None:
        """The key as it is remembered; None when the table must be asked. Shared: do not change it."""
        with self._lock:
            now = monotonic()
            entry = self._entries.get(public_id)
            if entry is None or now >= self._believed_until or now - entry.read_at >= self._max_age:
                return None
            self._entries.move_to_end(public_id)
            return entry.value

    def ticket(self) -> int:
        """What :meth:`put` wants to know; take it before reading."""
        with self._lock:
            return self._changes

    def put(self, public_id: str, value: V, *, organization_id: str, ticket: int) -> None:
        """Remember a key, unless any key may have changed since the ticket: changes are rare."""
        with self._lock:
            if ticket != self._changes:
                return
            self._entries[public_id] = _Entry(value, organization_id, monotonic())
            self._entries.move_to_end(public_id)
            if len(self._entries) > self._max_keys:
                self._entries.popitem(last=False)

    def forget(self, message: str) -> None:
        """Take a message of :data:`CHANNEL`."""
        kind, _, name = message.partition(":")
        with self._lock:
            self._changes += 1
            if kind == "key":
                self._entries.pop(name, None)
            else:
                gone = [public_id for public_id, entry in self._entries.items() if entry.organization_id == name]
                for public_id in gone:
                    del self._entries[public_id]

    def forget_all(self) -> None:
        """Messages may have been missed."""
        with self._lock:
            self._changes += 1
            self._entries.clear()

    def believe(self, *, since: float) -> None:
        """All messages of before ``since`` (:func:`time.monotonic`) have been taken."""
        with self._lock:
            self._believed_until = since + BELIEVED_SECONDS

    def doubt(self) -> None:
        """Nobody listens: serve nothing."""
        with self._lock:
            self._believed_until = 0.0
