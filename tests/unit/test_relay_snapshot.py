"""A relay's restart: what is written at the end and taken up at the start."""

import json

import pytest

from shem.kernel.ids import node_id_to_bytes
from shem.relay.core import RelayCore
from shem.relay.snapshot import SNAPSHOT_AGE_MAX_S, encode_snapshot, restore_snapshot
from shem.wire import relay as r
from tests.relay_town import DIFFICULTY, Client, Town, joined

UNIX_S = 1_700_000_000.0


@pytest.fixture
def town():
    return Town()


def restart(town, *, after_s=1.0, slots=None, change=lambda data: data):
    """Put a fresh core in the place of the old one; return how many sessions it took up."""
    data = change(encode_snapshot(town.core.directory, town.now, UNIX_S))
    stored = [node_id_to_bytes(node_id) for node_id in (slots or town.slots)]
    town.now += after_s
    town.core = RelayCore(town.rng, slots=stored, difficulty=DIFFICULTY, now=town.now)
    return restore_snapshot(data, town.core.directory, town.now, UNIX_S + after_s)


def test_nodes_go_on_after_a_restart_as_if_nothing_had_happened(town):
    one, two = joined(town, 1), joined(town, 2, is_public=False)

    assert restart(town) == 2

    assert one.ask(r.Ping()).content.code == r.Code.OK
    assert one.forward(2)[1] == two.address
    found = one.ask(r.FindNode(node_id_to_bytes(one.node_id))).content.body
    assert found.endpoints == (r.Endpoint(*one.address),)
    hidden = one.ask(r.FindNode(node_id_to_bytes(two.node_id))).content.body
    assert (hidden.endpoints, hidden.slot) == ((), 2)


def test_session_that_was_not_registered_is_taken_up_invisible(town):
    hidden, seeker = Client(town, 1).open(), joined(town, 2)

    restart(town)

    assert seeker.ask(r.FindNode(node_id_to_bytes(hidden.node_id))).content.code == 404
    assert hidden.register() is not None


def test_contacts_are_told_of_a_node_that_returns_after_the_restart(town):
    node, friend, stranger = joined(town, 1), joined(town, 2), joined(town, 3)
    friend.forward(1)

    restart(town)
    again = joined(town, 4, *node.keys)

    told = {to for _, to in again.noticed}
    assert friend.address in told and stranger.address not in told
    assert again.address in told  # it was forwarded to lately: its own routes are stale, too


def test_nodes_that_do_not_speak_after_the_restart_expire(town):
    joined(town, 1)
    restart(town)

    for _ in range(12):
        town.pass_time(10)

    assert not town.core.directory.sessions


def test_old_snapshot_is_worth_nothing(town):
    joined(town, 1)

    assert restart(town, after_s=SNAPSHOT_AGE_MAX_S + 1) == 0


def test_snapshot_from_the_future_is_worth_nothing(town):
    joined(town, 1)

    assert restart(town, after_s=-5.0) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: b"\x00" + data,
        lambda data: json.dumps("sessions").encode(),
        lambda data: data.replace(b"\x94\x01", b"\x94\x02", 1),
    ],
    ids=["empty", "cut", "shifted", "text", "other version"],
)
def test_damaged_snapshot_is_worth_nothing(town, change):
    joined(town, 1)

    assert restart(town, change=change) == 0


def test_session_whose_slot_was_given_to_another_node_stays_away(town):
    one, two = joined(town, 1), joined(town, 2)

    assert restart(town, slots=[two.node_id, one.node_id]) == 0


def test_session_whose_slot_is_not_known_any_more_stays_away(town):
    one, two = joined(town, 1), joined(town, 2)

    assert restart(town, slots=[one.node_id]) == 1
    assert two.ask(r.Ping()).content.code == r.Code.UNAUTHORIZED
