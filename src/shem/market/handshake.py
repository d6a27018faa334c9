"""How an agreement comes into force: confirm, approve, commit.

docs/protocol/market.md §6.5. Confirm and approve are retried within the call's own time and report
what came out. The requestor's commit is posted together with its `Approving` (see
`agreement_inbound`), so that a crash there is repaired by the outbox; a provider found `Approving`
at its start goes back to `Pending`, and a commit that comes then makes the requestor do the same.
"""

from dataclasses import replace
from typing import Any, Final

import structlog

from shem.bus.types import GsbError, RemoteError
from shem.kernel import failpoints
from shem.kernel.caller import Caller
from shem.kernel.errors import Gone, PeerError, ShemError, TimedOut, Unreachable, UsageError
from shem.kernel.ids import AgreementId
from shem.market.agreement_access import require_possible, row_for, state_of
from shem.market.agreement_outbound import AgreementOutbound
from shem.market.agreement_rows import (
    list_agreements,
    load_agreement,
    move_agreement,
    set_agreement,
)
from shem.market.context import CALL_TIMEOUT_S, Context
from shem.market.ids import Role, lettered
from shem.market.messages import (
    NO_SIGNATURE,
    PROVIDER_AGREEMENT,
    REQUESTOR_AGREEMENT,
    AgreementApproved,
    AgreementReceived,
)
from shem.market.proposal_rows import acted_on
from shem.market.records import AgreementRow, agreement_topic
from shem.market.refusals import describe, find, reported_state
from shem.market.states import AgreementInput, AgreementState, refusal
from shem.permissions.decide import Action

log = structlog.get_logger()

RETRY_PAUSE_S: Final = 0.5
CANCELLED_GRACE_S: Final = 1.0
"""How long an approval that met a cancelled agreement waits for the cancellation to arrive."""
REPAIRED_MAX: Final = 10_000
_AWAY: Final = (Unreachable, GsbError, TimedOut)
_IN_FORCE: Final = (AgreementState.APPROVED, AgreementState.TERMINATED)
"""What an approval that went through leads to."""


class Handshake:
    """The two-party steps of this node's programs."""

    def __init__(self, context: Context, outbound: AgreementOutbound) -> None:
        self._context = context
        self._outbound = outbound
        self._approving: set[AgreementId] = set()
        """Approvals under way; what else is `Approving` could not be taken back on a full disk."""

    async def repair(self) -> None:
        """Let what was being approved when the node died be approved again (§8.2)."""
        rows = await list_agreements(
            self._context.store.fetch,
            "state = 'Approving' AND role = 'Provider' LIMIT :most",
            most=REPAIRED_MAX,
        )
        for row in rows:
            async with self._context.store.unit(row.agreement_id) as unit:
                move_agreement(unit, row, AgreementInput.REVERT)
            log.info("market.approval_reverted", agreement=row.agreement_id, peer=row.peer)

    async def confirm(
        self, who: Caller, agreement_id: AgreementId, session: str | None, timeout_s: float
    ) -> None:
        """Send the agreement to the provider, until it has it or the time is over."""
        action = Action.CONFIRM_AGREEMENT
        async with self._context.store.unit(agreement_id) as unit:
            row = await row_for(self._context, who, agreement_id, Role.REQUESTOR, action)
            require_possible(self._context, row, AgreementInput.CONFIRM)
            # The provider's approval may overtake its answer: it must find the session.
            set_agreement(
                unit,
                row,
                is_sent=True,
                app_session_id=row.app_session_id if session is None else session,
                proposed_signature=NO_SIGNATURE,
            )
        await self._propose(row, timeout_s)
        failpoints.passing("market.confirmed_before_saved")
        async with self._context.store.unit(agreement_id) as unit:
            row = await row_for(self._context, who, agreement_id, Role.REQUESTOR, action)
            if row.state is AgreementState.PROPOSAL:
                move_agreement(unit, row, AgreementInput.CONFIRM)
            elif row.state is AgreementState.CANCELLED:
                raise refusal(row.state, AgreementInput.CONFIRM)

    async def _propose(self, row: AgreementRow, timeout_s: float) -> None:
        name = lettered(row.agreement_id, Role.REQUESTOR)
        message = AgreementReceived(
            row.proposal_id, name, row.created_ns, row.valid_to_ns, NO_SIGNATURE
        )
        try:
            await self._ask_until(row, PROVIDER_AGREEMENT, message, timeout_s)
        except RemoteError as error:
            if not await self._has_it_already(row, error.payload):
                raise PeerError(
                    f"Protocol error: Agreement [{lettered(row.agreement_id, Role.PROVIDER)}] "
                    f"remote error: {describe(error.payload)}"
                ) from error
        except _AWAY as error:
            raise Unreachable(
                f"Protocol error: Propose Agreement [{name}] GSB error: {error.message}"
            ) from error

    async def _has_it_already(self, row: AgreementRow, error: object) -> bool:
        """Tell whether a legacy provider refused a repeat of what it had taken before."""
        if find(error, "Unexpected") is None:
            return False
        state = await self._outbound.state_at_peer(row)
        return state in (AgreementState.PENDING, AgreementState.APPROVED)

    async def wait(self, who: Caller, agreement_id: AgreementId, timeout_s: float) -> None:
        """Return once the agreement is approved; raise what became of it otherwise."""
        topics = self._context.store.topics
        topic = agreement_topic(agreement_id)
        clock = self._context.world.clock
        deadline = clock.monotonic() + timeout_s
        name = lettered(agreement_id, Role.REQUESTOR)
        while True:
            version = topics.version(topic)
            row = await row_for(
                self._context, who, agreement_id, Role.REQUESTOR, Action.CONFIRM_AGREEMENT
            )
            if _is_approved(state_of(self._context, row), name):
                return
            left = deadline - clock.monotonic()
            if left <= 0 or not await topics.changed(topic, version, left):
                raise TimedOut(f"Timeout while waiting for Agreement [{name}] approval.")

    async def approve(
        self, who: Caller, agreement_id: AgreementId, session: str | None, timeout_s: float
    ) -> None:
        """Approve, and return once the requestor has committed."""
        is_alone = agreement_id not in self._approving
        self._approving.add(agreement_id)
        try:
            await self._approve(who, agreement_id, session, timeout_s, is_alone=is_alone)
        finally:
            if is_alone:
                self._approving.discard(agreement_id)

    async def _approve(
        self,
        who: Caller,
        agreement_id: AgreementId,
        session: str | None,
        timeout_s: float,
        *,
        is_alone: bool,
    ) -> None:
        deadline = self._context.world.clock.monotonic() + timeout_s
        async with self._context.store.unit(agreement_id) as unit:
            row = await row_for(
                self._context, who, agreement_id, Role.PROVIDER, Action.PROV_APPROVE_AGREEMENT
            )
            if row.state is AgreementState.CANCELLED:
                raise Gone("Cancelled")
            if row.state is AgreementState.APPROVING and is_alone:
                row = replace(row, state=move_agreement(unit, row, AgreementInput.REVERT))
            require_possible(self._context, row, AgreementInput.APPROVE)
            approved_ns = max(self._context.now_ns(), (row.approved_ns or 0) + 1)
            move_agreement(
                unit,
                row,
                AgreementInput.APPROVE,
                approved_ns=approved_ns,
                approved_signature=NO_SIGNATURE,
                app_session_id=row.app_session_id if session is None else session,
            )
            acted_on(unit, agreement_id=agreement_id)
        failure = await self._send_approval(row, approved_ns, timeout_s)
        grace_s = CANCELLED_GRACE_S if isinstance(failure, Gone) else 0.0
        if failure is None or grace_s:
            left = await self._left_approving(
                row, max(deadline, self._context.world.clock.monotonic() + grace_s)
            )
            if left in _IN_FORCE:
                return
        await self._settle_approval(row, approved_ns, failure)

    async def _send_approval(
        self, row: AgreementRow, approved_ns: int, timeout_s: float
    ) -> ShemError | None:
        """Tell the requestor; return why it did not work, None when it did."""
        name = lettered(row.agreement_id, Role.PROVIDER)
        message = AgreementApproved(name, NO_SIGNATURE, approved_ns)
        words = "Protocol error while approving:"
        try:
            await self._ask_until(row, REQUESTOR_AGREEMENT, message, timeout_s)
        except RemoteError as error:
            if reported_state(error.payload) is AgreementState.CANCELLED:
                return Gone("Cancelled")
            return PeerError(f"{words} Remote failed to approve. Error: {describe(error.payload)}")
        except TimedOut:
            return TimedOut(
                f"{words} Timeout while sending approval of Agreement [{name}]", status=500
            )
        except _AWAY as error:
            return Unreachable(f"{words} Approve Agreement [{name}] GSB error: {error.message}")
        return None

    async def _left_approving(self, row: AgreementRow, deadline: float) -> AgreementState | None:
        """Return the state for which the agreement left `Approving`; None if it did not in time."""
        topics = self._context.store.topics
        topic = agreement_topic(row.agreement_id)
        while True:
            version = topics.version(topic)
            current = await load_agreement(self._context.store.fetch, row.agreement_id, row.role)
            if current is None:
                return None
            if current.state is not AgreementState.APPROVING:
                return current.state
            left = deadline - self._context.world.clock.monotonic()
            if left <= 0 or not await topics.changed(topic, version, left):
                return None

    async def _settle_approval(
        self, row: AgreementRow, approved_ns: int, failure: ShemError | None
    ) -> None:
        """Report how the handshake ended; one that did not end goes back to `Pending`."""
        async with self._context.store.unit(row.agreement_id) as unit:
            current = await load_agreement(unit.fetch, row.agreement_id, row.role)
            if (
                current is not None
                and current.state is AgreementState.APPROVING
                and current.approved_ns == approved_ns
            ):
                move_agreement(unit, current, AgreementInput.REVERT)
        if current is not None:
            if current.state in _IN_FORCE:
                return
            if current.state is AgreementState.CANCELLED:
                raise Gone("Cancelled")
        raise failure or TimedOut(
            "Protocol error while approving: Timeout while sending approval of Agreement "
            f"[{lettered(row.agreement_id, Role.PROVIDER)}]",
            status=500,
        )

    async def _ask_until(
        self, row: AgreementRow, path: str, message: Any, timeout_s: float
    ) -> None:
        """Repeat a message until it is answered; both sides take a repeat as the same."""
        clock = self._context.world.clock
        deadline = clock.monotonic() + timeout_s
        last: ShemError = TimedOut("no time was given")
        while (left := deadline - clock.monotonic()) > 0:
            try:
                await self._context.ask(
                    row.identity, row.peer, path, message, timeout_s=min(left, CALL_TIMEOUT_S)
                )
            except _AWAY as error:
                if self._context.exact_failures:
                    raise
                last = error
                await clock.sleep(min(RETRY_PAUSE_S, max(0.0, deadline - clock.monotonic())))
            else:
                return
        raise last


def _is_approved(state: AgreementState, name: str) -> bool:
    """Tell whether a waiter is done; False while it has to wait on."""
    match state:
        case AgreementState.APPROVED:
            return True
        case AgreementState.PROPOSAL:
            raise UsageError(
                f"Agreement [{name}] should be confirmed, before waiting for approval."
            )
        case AgreementState.REJECTED | AgreementState.CANCELLED:
            raise Gone(str(state))
        case AgreementState.EXPIRED:
            raise Gone(f"Agreement [{name}] expired.")
        case AgreementState.TERMINATED:
            raise UsageError(f"Agreement [{name}] terminated.")
    return False
