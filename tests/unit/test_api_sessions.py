"""Sessions of programs, told by their connections."""

import pytest

from shem.api import sessions as sessions_module
from shem.api.sessions import Client, ClientSessions


class Ends:
    """Notes what the sessions tell."""

    def __init__(self, sessions: ClientSessions) -> None:
        self.told: list[tuple[str, bool]] = []
        sessions.on_gone(lambda client, ended: self.told.append((client.connection, ended)))


@pytest.fixture
def sessions() -> ClientSessions:
    return ClientSessions()


def test_connections_that_overlap_are_one_session(sessions: ClientSessions) -> None:
    first = sessions.seen("key", "a")
    assert sessions.seen("key", "b").session == first.session
    sessions.closed("a", by_client=True, broken=False)
    assert sessions.seen("key", "c").session == first.session


def test_a_session_ends_with_its_last_connection(sessions: ClientSessions) -> None:
    ends = Ends(sessions)
    old = sessions.seen("key", "a")
    sessions.seen("key", "b")
    sessions.closed("a", by_client=True, broken=False)
    assert ends.told == []
    sessions.closed("b", by_client=True, broken=False)
    assert ends.told == [("b", True)]
    assert sessions.seen("key", "a").session != old.session


def test_the_sessions_of_two_keys_are_two(sessions: ClientSessions) -> None:
    ends = Ends(sessions)
    assert sessions.seen("one", "a").session != sessions.seen("two", "a").session
    sessions.closed("a", by_client=True, broken=False)
    assert ends.told == [("a", True)] * 2


def test_an_idle_connection_that_we_close_does_not_end_the_session(
    sessions: ClientSessions,
) -> None:
    ends = Ends(sessions)
    old = sessions.seen("key", "a")
    sessions.closed("a", by_client=False, broken=False)
    assert ends.told == []
    assert sessions.seen("key", "b").session == old.session


def test_a_broken_connection_is_told_while_the_session_goes_on(sessions: ClientSessions) -> None:
    ends = Ends(sessions)
    broken = sessions.seen("key", "a")
    sessions.seen("key", "b")
    sessions.closed("a", by_client=True, broken=True)
    assert ends.told == [("a", False)]
    assert broken.is_gone


def test_one_shot_requests_share_a_session_without_end(sessions: ClientSessions) -> None:
    ends = Ends(sessions)
    one, two = (sessions.seen("key", name, one_shot=True) for name in "ab")
    assert one.session == two.session == "key"
    sessions.closed("a", by_client=True, broken=False)
    assert ends.told == []
    assert sessions.seen("key", "c").session != one.session


def test_the_end_of_an_unknown_connection_means_nothing(sessions: ClientSessions) -> None:
    ends = Ends(sessions)
    sessions.closed("a", by_client=True, broken=True)
    assert ends.told == []


def test_beyond_the_limit_connections_are_taken_as_one_shot(
    sessions: ClientSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "CONNECTIONS_MAX", 1)
    sessions.seen("key", "a")
    assert sessions.seen("key", "b") == Client("key", "b")


def test_sessions_without_connections_are_kept_within_a_limit(
    sessions: ClientSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 2)
    ends = Ends(sessions)
    first = sessions.seen("one", "a")
    sessions.seen("two", "b")
    for connection in "ab":
        sessions.closed(connection, by_client=False, broken=False)
    assert ends.told == []

    sessions.seen("three", "c")

    assert ends.told == [("", True)]
    assert sessions.seen("one", "d").session != first.session
