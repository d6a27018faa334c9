"""The agreements of this provider: approved, kept, ended.

Every step is written down before it is taken, so that it can be finished after a restart:
`approving` is resolved by asking the node, `breaking` is repeated until the node has it. Reasons
carry the codes of docs/protocol/provider-agent.md §6.1.
"""

import asyncio
from typing import Any, Final

import msgspec
import structlog

from shem.exeunit.agreement import expand
from shem.kernel import times
from shem.kernel.errors import ShemError
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider.activities import RUNTIME_NAME, Activities
from shem.provider.config import ProviderConfig
from shem.provider.hardware import Capacity, Resources
from shem.provider.ledger import Ledger, resources_of
from shem.provider.patience import BackOff, until_answered
from shem.provider.records import AgreementRecord, AgreementState, Records
from shem.provider.rules_payment import EXPIRATION
from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected
from shem.rest.models import Agreement

APPROVE_TIMEOUT_S: Final = 10.0
WATCH_PERIOD_S: Final = 1.0
UNDECIDED: Final = frozenset({"Proposal", "Pending", "Approving"})
IN_FORCE: Final = "Approved"
_NS_PER_MS: Final = 1_000_000

log = structlog.get_logger()


class Agreements:
    """Approves, watches and ends agreements."""

    def __init__(
        self,
        *,
        config: ProviderConfig,
        records: Records,
        activities: Activities,
        client: RestClient,
        session_id: str,
        world: World,
        scope: TaskScope,
        capacity: Capacity,
    ) -> None:
        self.capacity = capacity
        self.changed = asyncio.Event()
        """Set whenever something was promised or became free."""
        self._config = config
        self._records = records
        self._activities = activities
        self._client = client
        self._session_id = session_id
        self._world = world
        self._scope = scope
        self._open: dict[str, AgreementRecord] = {}
        self._reserved: dict[str, Resources] = {}
        self._promised: dict[str, Resources] = {}
        self._idle_since: dict[str, float] = {}
        activities.on_ended(self._note_idle)
        activities.on_over(self._finish)

    @property
    def ledger(self) -> Ledger:
        """What of this machine is promised, to agreements and to those being approved."""
        held = {
            agreement_id: self._promised[agreement_id]
            for agreement_id, record in self._open.items()
            if record.state is not AgreementState.BREAKING or self._activities.of(agreement_id)
        }
        return Ledger(self.capacity, self._config.agreements_max, {**self._reserved, **held})

    def reserve(self, agreement_id: str, resources: Resources) -> None:
        """Take a place before anything else is awaited."""
        self._reserved[agreement_id] = resources
        self.changed.set()

    def release(self, agreement_id: str) -> None:
        """Give a reserved place back; an agreement that is held keeps its own."""
        self._reserved.pop(agreement_id, None)
        self.changed.set()

    async def resume(self) -> None:
        """Take up what an earlier agent left."""
        for record in await self._records.open_agreements():
            self._hold(record)
            log.info("agreement.resumed", agreement=record.agreement_id, state=str(record.state))
            if record.state is AgreementState.APPROVING:
                self._scope.spawn(self._approve(record.agreement_id), "approve")
            elif record.state is AgreementState.BREAKING:
                self._scope.spawn(self._break(record.agreement_id, record.reason or {}), "break")
            else:
                self._scope.spawn(self._check(record.agreement_id), "check agreement")

    async def approve(self, agreement: Agreement) -> None:
        """Approve an agreement that the rules accepted; returns when that is written down."""
        agreement_id = agreement.agreement_id
        expires_ms = int(agreement.demand.properties[EXPIRATION])
        try:
            await self._records.add_agreement(
                agreement_id, _body(agreement), expires_ms * _NS_PER_MS
            )
            record = await self._records.agreement(agreement_id)
            assert record is not None
            if record.state is AgreementState.ENDED:
                return
            self._hold(record)
        finally:
            self.release(agreement_id)
        if record.state is AgreementState.APPROVING:
            self._scope.spawn(self._approve(agreement_id), f"approve {agreement_id}")

    def in_force(self, agreement_id: str) -> AgreementRecord | None:
        """Return an agreement under which an activity may be created."""
        record = self._open.get(agreement_id)
        if record is None or record.state is AgreementState.BREAKING:
            return None
        return record

    async def over(self, agreement_id: str) -> AgreementRecord | None:
        """Return an agreement of ours that is not in force."""
        if self.in_force(agreement_id) is not None:
            return None
        return await self._records.agreement(agreement_id)

    def in_state(self, state: AgreementState) -> list[AgreementRecord]:
        return [record for record in self._open.values() if record.state is state]

    def is_approved(self, agreement_id: str) -> bool:
        record = self._open.get(agreement_id)
        return record is not None and record.state is AgreementState.APPROVED

    async def break_off(self, agreement_id: str, code: str, message: str) -> None:
        """End an agreement that is in force, durably; any other stays as it is."""
        if self.is_approved(agreement_id):
            await self._begin_break(self._open[agreement_id], _reason(code, message))

    async def _finish(self, agreement_id: str, text: str) -> None:
        """The work is over: nothing more is to be billed."""
        await self.break_off(agreement_id, "Success", f"Finished with success. {text}".strip())

    async def ended_elsewhere(self, agreement_id: str, event: str) -> None:
        """The node says that an agreement is over: end what runs under it."""
        if agreement_id in self._open:
            log.info("agreement.over", agreement=agreement_id, why=event)
            await self._end(agreement_id, f"agreement ended: {event}")

    async def watch(self) -> None:
        """Break agreements that have expired or stand idle; runs for ever."""
        while True:
            await self._world.clock.sleep(WATCH_PERIOD_S)
            for agreement_id in tuple(self._open):
                record = self._open.get(agreement_id)  # it may have ended while another was broken
                if record is not None and record.state is AgreementState.APPROVED:
                    reason = self._reason_to_break(record)
                    if reason is not None:
                        await self._begin_break(record, reason)

    def _reason_to_break(self, record: AgreementRecord) -> dict[str, Any] | None:
        if self._world.clock.wall_ns() >= record.expires_ns:
            moment = times.to_rfc3339(record.expires_ns)
            return _reason("Expired", f"Agreement expired @ {moment}")
        if self._activities.of(record.agreement_id):
            return None
        idle_s = self._world.clock.monotonic() - self._idle_since[record.agreement_id]
        if idle_s >= self._config.idle_agreement_s:
            limit_s = self._config.idle_agreement_s
            return _reason("NoActivity", f"No activity created within {limit_s:.0f}s")
        return None

    async def _begin_break(self, record: AgreementRecord, reason: dict[str, Any]) -> None:
        agreement_id = record.agreement_id
        log.info("agreement.breaking", agreement=agreement_id, code=reason["golem.provider.code"])
        await self._records.set_agreement(agreement_id, AgreementState.BREAKING, reason)
        await self._refresh(agreement_id)
        self._scope.spawn(self._break(agreement_id, reason), f"break {agreement_id}")

    async def _break(self, agreement_id: str, reason: dict[str, Any]) -> None:
        """End what runs, then terminate at the node, again until it is done or void."""
        await self._destroy_activities(agreement_id, str(reason.get("message", "broken")))
        back_off = BackOff(self._world)
        while True:
            try:
                await self._client.market.agreements.terminate(agreement_id, reason)
                break
            except (ApiError, Disconnected) as error:
                log.info("agreement.not_terminated", agreement=agreement_id, reason=str(error))
            if await self._state(agreement_id) != IN_FORCE:
                break
            await back_off.wait()
        await self._end(agreement_id, "broken")

    async def _approve(self, agreement_id: str) -> None:
        """Approve until the node says how it stands."""
        back_off = BackOff(self._world)
        while True:
            try:
                await self._client.market.agreements.approve(
                    agreement_id, timeout_s=APPROVE_TIMEOUT_S, app_session_id=self._session_id
                )
                state = IN_FORCE
            except (ApiError, Disconnected) as error:
                log.info("agreement.approval_unclear", agreement=agreement_id, reason=str(error))
                state = await self._state(agreement_id)
            if state == IN_FORCE:
                await self._records.set_agreement(agreement_id, AgreementState.APPROVED)
                await self._refresh(agreement_id)
                log.info("agreement.approved", agreement=agreement_id)
                return
            if state not in UNDECIDED:
                log.info("agreement.not_approved", agreement=agreement_id, state=state)
                await self._end(agreement_id, f"agreement {state}")
                return
            await back_off.wait()

    async def _check(self, agreement_id: str) -> None:
        """After a restart: is it still in force?"""
        state = await self._state(agreement_id)
        if state != IN_FORCE:
            await self.ended_elsewhere(agreement_id, state)

    async def _state(self, agreement_id: str) -> str:
        """Ask the node; an agreement that it does not know is `Unknown`."""
        try:
            found = await until_answered(
                "agreement state",
                lambda: self._client.market.agreements.get(agreement_id),
                self._world,
            )
        except ShemError as error:
            log.warning("agreement.unknown", agreement=agreement_id, reason=str(error))
            return "Unknown"
        return found.state

    async def _end(self, agreement_id: str, reason: str) -> None:
        await self._destroy_activities(agreement_id, reason)
        await self._records.set_agreement(agreement_id, AgreementState.ENDED)
        self._open.pop(agreement_id, None)
        self._promised.pop(agreement_id, None)
        self._idle_since.pop(agreement_id, None)
        self.changed.set()
        await self._activities.clear(agreement_id)

    async def _destroy_activities(self, agreement_id: str, reason: str) -> None:
        for activity_id in self._activities.of(agreement_id):
            await self._activities.destroy(activity_id, reason)

    async def _refresh(self, agreement_id: str) -> None:
        record = await self._records.agreement(agreement_id)
        still_held = agreement_id in self._open  # it may have ended while we read
        if record is not None and record.state is not AgreementState.ENDED and still_held:
            self._open[agreement_id] = record

    def _hold(self, record: AgreementRecord) -> None:
        self._open[record.agreement_id] = record
        self._promised[record.agreement_id] = resources_of(record.offer)
        self._note_idle(record.agreement_id)

    def _note_idle(self, agreement_id: str) -> None:
        self.changed.set()
        if agreement_id in self._open:
            self._idle_since[agreement_id] = self._world.clock.monotonic()


def _reason(code: str, message: str) -> dict[str, Any]:
    return {"message": message, "golem.provider.code": code}


def _body(agreement: Agreement) -> dict[str, Any]:
    """Return what is remembered: the runtime's name, and the agreement file's content."""
    content = msgspec.to_builtins(agreement)
    for side in ("demand", "offer"):
        content[side]["properties"] = expand(content[side]["properties"])
    return {"runtime": agreement.offer.properties.get(RUNTIME_NAME), "agreement": content}
