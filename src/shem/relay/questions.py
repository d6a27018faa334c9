"""What a node with a session may ask: about nodes, slots, neighbours, and to be dialled back.

Answers come from the registry, so that nodes of other relays are found as well. Pure.
Spec: docs/protocol/net.md §5.4.
"""

from collections.abc import Callable
from typing import Final

from shem.kernel.ids import node_id_from_bytes, node_id_to_bytes
from shem.relay.directory import Directory, RelaySession
from shem.relay.limits import Gate
from shem.relay.mesh import notice_to
from shem.relay.outputs import Out, SendRelay, endpoints
from shem.relay.registry import Registration
from shem.wire import relay as r

NEIGHBOURS_MAX: Final = 100

EMPTY_ANSWER: Final[dict[type, r.ResponseBody]] = {
    r.Ping: r.Pong(),
    r.FindNode: r.Node(),
    r.FindSlot: r.Node(),
    r.FindNeighbours: r.Neighbours(),
    r.AskReverse: r.ReverseAsked(),
}
"""Of which kind a refusal is: yagna ignores an answer without a kind."""


class Questions:
    """Answers requests whose sender is known."""

    def __init__(self, directory: Directory, out: Out, gate: Gate, unix_offset_s: float) -> None:
        self._directory = directory
        self._out = out
        self._gate = gate
        self._unix_offset_s = unix_offset_s
        self._answer: dict[type, Callable[[RelaySession, int, object, float], None]] = {
            r.Ping: self._on_ping,
            r.FindNode: self._on_find_node,
            r.FindSlot: self._on_find_slot,
            r.FindNeighbours: self._on_find_neighbours,
            r.AskReverse: self._on_ask_reverse,
        }

    def answer(self, session: RelaySession, request_id: int, body: object, now: float) -> None:
        self._out.counts.questions += 1
        self._answer[type(body)](session, request_id, body, now)

    def _on_ping(self, session: RelaySession, request_id: int, _: object, __: float) -> None:
        self._out.reply(session, request_id, r.Code.OK, r.Pong())

    def _on_find_node(self, session: RelaySession, request_id: int, body: object, _: float) -> None:
        assert isinstance(body, r.FindNode)
        if len(body.node_id) != r.NODE_ID_SIZE:
            self._out.reply(session, request_id, r.Code.BAD_REQUEST, r.Node())
            return
        self._reply_node(
            session, request_id, self._directory.find(node_id_from_bytes(body.node_id))
        )

    def _on_find_slot(self, session: RelaySession, request_id: int, body: object, _: float) -> None:
        assert isinstance(body, r.FindSlot)
        if self._directory.is_assigned(body.slot):
            self._reply_node(session, request_id, self._directory.at_slot(body.slot))

    def _on_find_neighbours(
        self, session: RelaySession, request_id: int, body: object, now: float
    ) -> None:
        assert isinstance(body, r.FindNeighbours)
        if not self._gate.search(session.session_id, now):
            self._out.refuse("search rate")
            self._out.reply(session, request_id, r.Code.TOO_MANY_REQUESTS, r.Neighbours())
            return
        count = min(body.count, NEIGHBOURS_MAX)
        nodes = self._directory.registry.neighbours(session, count)
        answer = r.Neighbours(tuple(map(self._describe, nodes)))
        self._out.reply(session, request_id, r.Code.OK, answer)

    def _on_ask_reverse(
        self, session: RelaySession, request_id: int, body: object, _: float
    ) -> None:
        assert isinstance(body, r.AskReverse)
        if not session.endpoints or len(body.node_id) != r.NODE_ID_SIZE:
            self._out.reply(session, request_id, r.Code.BAD_REQUEST, r.ReverseAsked())
            return
        target = self._directory.find(node_id_from_bytes(body.node_id))
        if target is None or target is session:
            self._out.reply(session, request_id, r.Code.NOT_FOUND, r.ReverseAsked())
            return
        notice = r.DialBack(node_id_to_bytes(session.node_id), endpoints(session))
        if target.relay == self._directory.relay:
            self._out.control(target.session_id, notice, target.address)
        else:
            self._out.emit(SendRelay(target.relay, notice_to(target.slot, notice)))
        self._directory.contacts.note(session.slot, target.slot, 0.0)
        self._out.reply(session, request_id, r.Code.OK, r.ReverseAsked())

    def _reply_node(
        self, session: RelaySession, request_id: int, found: Registration | None
    ) -> None:
        if found is None:
            self._out.reply(session, request_id, r.Code.NOT_FOUND, r.Node())
            return
        if found is not session:
            self._directory.contacts.note(session.slot, found.slot, 0.0)
        self._out.reply(session, request_id, r.Code.OK, self._describe(found))

    def _describe(self, entry: Registration) -> r.Node:
        return r.Node(
            identities=tuple(
                r.Identity(key, node_id_to_bytes(node_id)) for node_id, key in entry.identities
            ),
            endpoints=endpoints(entry),
            seen_ts=int(entry.last_seen + self._unix_offset_s),
            slot=entry.slot,
        )
