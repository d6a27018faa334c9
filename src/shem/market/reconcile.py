"""After a return: both copies of every live agreement are compared, and made to agree.

docs/adr/0008-who-is-right-about-an-agreement.md. At the start of the node, whenever a peer shows
up, and now and then besides, the peer is asked for its copies of the agreements that live here.
Each side asks for itself and changes only its own copy, by the table in `authority`, and only if
that has not moved since the question was put; then it asks the peer to look as well. A change is
told as the usual event of the agreement, if its new state has one, and in the log.
"""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import groupby
from operator import attrgetter
from typing import Final

import structlog

from shem.kernel.errors import ShemError, TimedOut
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.market.agreement_outbound import post_approval
from shem.market.agreement_rows import (
    live_peers,
    live_with,
    load_agreement,
    log_event,
    move_agreement,
)
from shem.market.agreement_states import (
    ADDRESS,
    FEATURE,
    CompareAgreements,
    Copy,
    ask_many,
    ask_one_by_one,
)
from shem.market.authority import HAVE_BEEN, Again, verdict
from shem.market.context import Context
from shem.market.endings import Endings
from shem.market.ids import Role
from shem.market.messages import NO_SIGNATURE, Reason
from shem.market.records import AgreementEntry, AgreementRow
from shem.market.states import TARGETS, AgreementInput, AgreementState, at
from shem.store.unit import Unit

log = structlog.get_logger()

AT_ONCE_MAX: Final = 16
"""Peers that are asked at the same time; one that does not answer holds up none but itself."""
INTERVAL_S: Final = 30.0
"""A peer that comes and goes is asked at most so often."""
RETRY_S: Final = 60.0
"""After a peer was silent, or was asked to commit again."""
ROUND_S: Final = 3600.0
"""How often all peers with live agreements are asked, whether they show up or not."""
DUE_MAX: Final = 10_000
"""Peers that wait to be asked; the others come with the next round."""

_I = AgreementInput
_S = AgreementState

Features = Callable[[NodeId], Awaitable[frozenset[str]]]


async def no_features(peer: NodeId) -> frozenset[str]:
    """Take every peer for a legacy node."""
    del peer
    return frozenset()


class Reconciler:
    """Asks peers for their copies; `run` is its loop."""

    def __init__(self, context: Context, endings: Endings, features: Features) -> None:
        self._context = context
        self._endings = endings
        self._features = features
        self._due: dict[NodeId, float] = {}
        self._asked: dict[NodeId, float] = {}
        self._wake = asyncio.Event()

    def peer_up(self, peer: NodeId) -> None:
        """Ask a peer that has just shown up."""
        now = self._now()
        self._plan(peer, max(now, self._asked.get(peer, now - INTERVAL_S) + INTERVAL_S))

    async def compare_now(self, peer: NodeId) -> None:
        """Compare with a peer once, before anything else is done; its silence is no failure."""
        await self._compare_with(peer)

    async def run(self) -> None:
        round_due = self._now()
        async with TaskScope() as asking:
            while True:
                self._wake.clear()
                now = self._now()
                if now >= round_due:
                    round_due = now + ROUND_S
                    self._asked = {p: t for p, t in self._asked.items() if t > now - INTERVAL_S}
                    await self._plan_all(now)
                room = AT_ONCE_MAX - asking.size
                ready = [peer for peer, due in self._due.items() if due <= now][:room]
                for peer in ready:
                    del self._due[peer]
                    self._asked[peer] = now
                    asking.spawn(self._compare_with(peer), f"reconcile {peer}")
                await self._sleep(min([round_due, *self._due.values()]), room > len(ready))

    async def _sleep(self, due: float, has_room: bool) -> None:
        try:
            async with asyncio.timeout(max(0.0, due - self._now()) if has_room else None):
                await self._wake.wait()
        except TimeoutError:
            return

    def _now(self) -> float:
        return self._context.world.clock.monotonic()

    def _plan(self, peer: NodeId, due: float) -> None:
        if len(self._due) < DUE_MAX:
            self._due[peer] = min(due, self._due.get(peer, due))
            self._wake.set()

    async def _plan_all(self, now: float) -> None:
        try:
            for peer in await live_peers(self._context.store.fetch, DUE_MAX):
                self._plan(peer, now)
        except ShemError as error:
            log.warning("market.reconcile_failed", reason=error.message)

    async def _compare_with(self, peer: NodeId) -> None:
        try:
            entries = await live_with(self._context.store.fetch, peer)
            if not entries:
                self._asked.pop(peer, None)
            for (identity, role), group in groupby(entries, attrgetter("identity", "role")):
                await self._compare(identity, peer, role, list(group))
        except TimedOut as error:
            log.debug("market.reconcile_delayed", peer=peer, reason=error.message)
            self._plan(peer, self._now() + RETRY_S)
        except ShemError as error:
            log.debug("market.reconcile_delayed", peer=peer, reason=error.message)
        finally:
            self._wake.set()

    async def _compare(
        self, identity: NodeId, peer: NodeId, role: Role, entries: list[AgreementEntry]
    ) -> None:
        now_ns = self._context.now_ns()
        ours = {
            entry.agreement_id: entry
            for entry in entries
            if at(entry.state, entry.valid_to_ns, now_ns) is not _S.EXPIRED
        }
        if not ours:
            return
        is_ours = FEATURE in await self._features(peer)
        ask = ask_many if is_ours else ask_one_by_one
        changed = False
        async for theirs in ask(self._context, identity, peer, role.other, list(ours)):
            changed |= await self._merge(ours[theirs.agreement_id], theirs)
        if changed and is_ours:
            await self._context.ask(identity, peer, ADDRESS, CompareAgreements())

    async def _merge(self, asked: AgreementEntry, theirs: Copy) -> bool:
        """Change our copy where the table says so; return whether it did."""
        async with self._context.store.unit(asked.agreement_id) as unit:
            row = await load_agreement(unit.fetch, asked.agreement_id, asked.role)
            if row is None or (row.state, row.approved_ns) != (asked.state, asked.approved_ns):
                return False  # it has moved: what the peer said is about something else
            decision = verdict(
                row.role, row.state, theirs.seen, had_approval=row.approved_ns is not None
            )
            if decision is None:
                return False
            log.warning(
                "market.reconciled",
                agreement=row.agreement_id,
                peer=row.peer,
                ours=str(row.state),
                theirs=str(theirs.state),
                verdict=str(decision.value),
            )
            if isinstance(decision, Again):
                post_approval(unit, row, self._context.now_ns())
                self._plan(row.peer, self._now() + RETRY_S)
            else:
                await self._apply(unit, row, decision, theirs)
        return True

    async def _apply(
        self, unit: Unit, row: AgreementRow, decision: AgreementInput, theirs: Copy
    ) -> None:
        seen_as = HAVE_BEEN.get((row.state, decision))
        if decision in (_I.CONFIRM, _I.EXPIRE):
            move_agreement(unit, row, decision, seen_as=seen_as)
            return
        now_ns = self._context.now_ns()
        if decision is _I.COMMIT:
            move_agreement(unit, row, decision, seen_as=seen_as, committed_signature=NO_SIGNATURE)
            log_event(unit, row, _S.APPROVED, now_ns=now_ns)
            return
        if decision is _I.TERMINATE and row.state is not _S.APPROVED:
            log_event(unit, row, _S.APPROVED, now_ns=now_ns)
        said_so = theirs.state == TARGETS[decision]
        terminator = Role(theirs.terminator) if said_so and theirs.terminator else row.role.other
        await self._endings.apply(
            unit,
            row,
            decision,
            reason=(theirs.reason if said_so else None) or _found_out(row, theirs),
            terminator=terminator if decision is _I.TERMINATE else None,
            seen_as=seen_as,
        )


def _found_out(row: AgreementRow, theirs: Copy) -> Reason:
    """Return the reason of an end that nobody announced."""
    state = "unknown" if theirs.state is None else theirs.state
    return {"message": f"The {row.role.other} says that this agreement is {state}."}
