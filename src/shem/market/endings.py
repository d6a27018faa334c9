"""How an agreement ends: cancelled, rejected, terminated, expired by its own terms.

docs/protocol/market.md §6.5, §8.4. An ending is done once it is in the store, together with the
message that tells the other party; whether that is there does not matter. An agreement whose
demand names an expiration ends on both sides by their own clocks, so that neither needs the other.
"""

from collections.abc import Callable
from typing import Final

import structlog

from shem.kernel.caller import Caller
from shem.kernel.errors import ShemError
from shem.kernel.ids import AgreementId
from shem.kernel.times import NS_PER_S
from shem.market.agreement_access import (
    TERMINATE,
    require_possible,
    row_for,
    row_of_party,
    state_of,
)
from shem.market.agreement_outbound import AgreementOutbound, answer_key, post_ending
from shem.market.agreement_rows import (
    list_agreements,
    list_entries,
    load_agreement,
    log_event,
    move_agreement,
)
from shem.market.context import Context, within
from shem.market.ids import Role
from shem.market.matching import propose_again
from shem.market.messages import Reason
from shem.market.proposal_rows import acted_on
from shem.market.records import IN_FORCE_TOPIC, AgreementRow, agreement_topic, reason_text
from shem.market.states import TARGETS, AgreementInput, AgreementState, refusal
from shem.permissions.decide import Action
from shem.store.unit import Unit

log = structlog.get_logger()

ANSWER_S: Final = 1.0
"""How long an ending waits for the peer's acknowledgement; it is done without it."""
CANCEL_WAIT_S: Final = 10.0
"""How long a cancellation waits for a commit that is under way."""
PAUSE_AFTER_FAULT_S: Final = 1.0
EXPIRED_AT_ONCE_MAX: Final = 100
EXPIRY_LOOK_S: Final = 30.0
"""The longest time between two looks; approvals are looked at when they come."""
REQUESTOR_GRACE_NS: Final = 5 * NS_PER_S
"""The provider's word comes first; its clock and ours may differ."""
EXPIRED: Final[Reason] = {
    "message": "Agreement expired.",
    "golem.provider.code": "Expired",
}

_APPROVING: Final = AgreementState.APPROVING

Ended = Callable[[AgreementId], None]


class Endings:
    """Ends agreements, for programs and by the clock."""

    def __init__(self, context: Context, outbound: AgreementOutbound) -> None:
        self._context = context
        self._outbound = outbound
        self._listeners: list[Ended] = []

    def on_end(self, fn: Ended) -> None:
        """Have `fn` called with the id of an agreement that was in force, after its end."""
        self._listeners.append(fn)

    async def cancel(self, who: Caller, agreement_id: AgreementId, reason: Reason | None) -> None:
        """Take the proposal of an agreement back, while it is not in force."""
        row = await row_for(
            self._context, who, agreement_id, Role.REQUESTOR, Action.CANCEL_AGREEMENT
        )
        await self._commit_resolved(row)
        await self._end(who, row, Action.CANCEL_AGREEMENT, AgreementInput.CANCEL, reason)

    async def reject(self, who: Caller, agreement_id: AgreementId, reason: Reason | None) -> None:
        """Refuse an agreement that the requestor proposed."""
        action = Action.PROV_REJECT_AGREEMENT
        row = await row_for(self._context, who, agreement_id, Role.PROVIDER, action)
        await self._end(who, row, action, AgreementInput.REJECT, reason)

    async def terminate(
        self, who: Caller, agreement_id: AgreementId, reason: Reason | None
    ) -> None:
        """End an agreement that is in force, as either party."""
        row = await row_of_party(self._context, who, agreement_id)
        await self._end(who, row, TERMINATE[row.role], AgreementInput.TERMINATE, reason)

    async def apply(
        self,
        unit: Unit,
        row: AgreementRow,
        happening: AgreementInput,
        *,
        reason: Reason | None,
        terminator: Role | None = None,
        seen_as: AgreementState | None = None,
    ) -> None:
        """Write an ending: the state, the event, and what follows from it."""
        now_ns = self._context.now_ns()
        following = move_agreement(unit, row, happening, seen_as=seen_as)
        log_event(
            unit,
            row,
            TARGETS[happening],
            now_ns=now_ns,
            terminator=terminator,
            reason=reason_text(reason),
        )
        if following is not AgreementState.TERMINATED:
            return
        unit.after_commit(lambda: self._tell(row))
        if row.role is Role.REQUESTOR:
            await propose_again(unit, row.offer_id, row.demand_id, now_ns)

    def _tell(self, row: AgreementRow) -> None:
        log.info("market.agreement_ended", agreement=row.agreement_id, peer=row.peer)
        for fn in self._listeners:
            fn(row.agreement_id)

    async def _end(
        self,
        who: Caller,
        row: AgreementRow,
        action: Action,
        happening: AgreementInput,
        reason: Reason | None,
    ) -> None:
        if self._context.exact_failures:
            require_possible(self._context, row, happening)
            await self._outbound.tell_ending(row, happening, reason)
        key = answer_key(row, happening)
        with self._context.answers.expected(key) as answer:
            async with self._context.store.unit(row.agreement_id) as unit:
                current = await row_for(self._context, who, row.agreement_id, row.role, action)
                if self._context.exact_failures and current.state is TARGETS[happening]:
                    return  # the peer, once told, was quicker to tell us
                require_possible(self._context, current, happening)
                if happening is AgreementInput.CANCEL and current.state is _APPROVING:
                    # Our commit is on its way: it may be in force already.
                    raise refusal(current.state, happening)
                terminator = row.role if happening is AgreementInput.TERMINATE else None
                await self.apply(unit, current, happening, reason=reason, terminator=terminator)
                if happening is AgreementInput.REJECT:
                    acted_on(unit, agreement_id=row.agreement_id)
                is_owed = current.is_sent and not self._context.exact_failures
                if is_owed:
                    post_ending(unit, current, happening, reason, self._context.now_ns())
            if is_owed:
                await within(answer, ANSWER_S)

    async def _commit_resolved(self, row: AgreementRow) -> None:
        """Wait, for a while, until a commit under way shows whether the agreement is in force."""
        topics = self._context.store.topics
        topic = agreement_topic(row.agreement_id)
        clock = self._context.world.clock
        deadline = clock.monotonic() + CANCEL_WAIT_S
        while True:
            version = topics.version(topic)
            current = await load_agreement(self._context.store.fetch, row.agreement_id, row.role)
            if current is None or current.state is not AgreementState.APPROVING:
                return
            left = deadline - clock.monotonic()
            if left <= 0 or not await topics.changed(topic, version, left):
                return

    # --- the clock ---

    async def run(self) -> None:
        """End what is due, and look again when something came into force."""
        topics = self._context.store.topics
        while True:
            version = topics.version(IN_FORCE_TOPIC)
            try:
                wait_s = await self.expire_due()
            except ShemError as error:
                log.warning("market.expiry_failed", reason=error.message)
                wait_s = PAUSE_AFTER_FAULT_S
            await topics.changed(IN_FORCE_TOPIC, version, wait_s)

    async def expire_due(self) -> float:
        """End what has outlived its terms; return the seconds until the next look."""
        await self._expire_unapproved()
        now_ns = self._context.now_ns()
        rows = await list_agreements(
            self._context.store.fetch,
            "state = 'Approved' AND expires_ns IS NOT NULL ORDER BY expires_ns LIMIT :most",
            most=EXPIRED_AT_ONCE_MAX,
        )
        for row in rows:
            if _due_ns(row) <= now_ns:
                await self._expire(row)
        left_s = [(due_ns - now_ns) / NS_PER_S for row in rows if (due_ns := _due_ns(row)) > now_ns]
        return min([EXPIRY_LOOK_S, *left_s])

    async def _expire_unapproved(self) -> None:
        """Write down what `states.at` shows already: nobody approved it before `validTo`."""
        entries = await list_entries(
            self._context.store.fetch,
            "state IN ('Proposal', 'Pending') AND valid_to_ns <= :now_ns"
            " ORDER BY valid_to_ns LIMIT :most",
            now_ns=self._context.now_ns(),
            most=EXPIRED_AT_ONCE_MAX,
        )
        for entry in entries:
            async with self._context.store.unit(entry.agreement_id) as unit:
                row = await load_agreement(unit.fetch, entry.agreement_id, entry.role)
                if row is not None and state_of(self._context, row) is AgreementState.EXPIRED:
                    move_agreement(unit, row, AgreementInput.EXPIRE)

    async def _expire(self, row: AgreementRow) -> None:
        async with self._context.store.unit(row.agreement_id) as unit:
            current = await load_agreement(unit.fetch, row.agreement_id, row.role)
            if current is None or current.state is not AgreementState.APPROVED:
                return
            await self.apply(
                unit,
                current,
                AgreementInput.TERMINATE,
                reason=EXPIRED,
                terminator=Role.PROVIDER,
            )
            post_ending(unit, current, AgreementInput.TERMINATE, EXPIRED, self._context.now_ns())
        log.info("market.agreement_expired", agreement=row.agreement_id, role=row.role)


def _due_ns(row: AgreementRow) -> int:
    assert row.expires_ns is not None
    return row.expires_ns + (REQUESTOR_GRACE_NS if row.role is Role.REQUESTOR else 0)
