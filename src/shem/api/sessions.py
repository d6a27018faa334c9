"""Which calls come from the same run of a program: told by its connections.

Who was handed events and asks again has got them; who died in between has not. A *session* is an
application key's open connections: it begins with the first, and ends when the client has closed
the last. Connections that we close for idleness do not end it. A request that announces
`Connection: close` belongs to no connection: such requests of a key share one session without end.
A connection that broke before its answer was through is reported at once. Programs that share a key
and name themselves (`Shem-Program`, a new name for every run) have sessions of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

CONNECTIONS_MAX: Final = 10_000
"""Connections remembered; of others nothing is known when they close."""
SESSIONS_MAX: Final = 10_000
"""Beyond it the oldest session without an open connection is taken as ended."""


@dataclass(slots=True)
class Client:
    """One connection of a program; `is_gone` once it has closed."""

    session: str
    connection: str
    is_gone: bool = False


Gone = Callable[[Client, bool], None]
"""`(client, the whole session ended)`."""


@dataclass(slots=True)
class _Session:
    name: str
    open: set[str] = field(default_factory=set)


class ClientSessions:
    """The connections of all keys."""

    def __init__(self) -> None:
        self._started = 0
        self._sessions: dict[str, _Session] = {}
        self._clients: dict[str, dict[str, Client]] = {}
        self._listeners: list[Gone] = []

    def on_gone(self, fn: Gone) -> None:
        """Have `fn` called when a session ends, or a connection broke under an answer."""
        self._listeners.append(fn)

    def seen(self, key: str, connection: str, *, one_shot: bool = False) -> Client:
        """Return the client behind a request that came with the key of this name."""
        if one_shot or (connection not in self._clients and len(self._clients) >= CONNECTIONS_MAX):
            return Client(key, connection)
        clients = self._clients.setdefault(connection, {})
        if key not in clients:
            session = self._session(key)
            session.open.add(connection)
            clients[key] = Client(session.name, connection)
        return clients[key]

    def closed(self, connection: str, *, by_client: bool, broken: bool) -> None:
        """Take note that a connection has ended, and how."""
        for key, client in self._clients.pop(connection, {}).items():
            client.is_gone = True
            session = self._sessions[key]
            session.open.discard(connection)
            ended = by_client and not session.open
            if ended:
                del self._sessions[key]
            if ended or broken:
                self._tell(client, ended)

    def _session(self, key: str) -> _Session:
        found = self._sessions.get(key)
        if found is None:
            self._make_room()
            self._started += 1
            found = self._sessions[key] = _Session(f"{key}#{self._started}")
        return found

    def _make_room(self) -> None:
        if len(self._sessions) < SESSIONS_MAX:
            return
        for key, session in self._sessions.items():
            if not session.open:
                del self._sessions[key]
                self._tell(Client(session.name, "", is_gone=True), True)
                return

    def _tell(self, client: Client, ended: bool) -> None:
        for fn in self._listeners:
            fn(client, ended)
