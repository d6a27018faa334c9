"""Asks after the requestors of agreements that say how long they may be away, and does what was
agreed when one is away for longer (docs/protocol/extensions.md, "Absence").

Any answer of the requestor's node is a sign of life, a refusal as well: the question is the ping
that every node answers. Since when a requestor is silent is on disk before anything follows from
it, and what follows may be repeated.
"""

import asyncio
from typing import Final

import structlog

from shem.bus.client import BusClient
from shem.bus.types import GsbError, RemoteError
from shem.kernel.config import parse_gsb_url
from shem.kernel.errors import ShemError
from shem.kernel.failpoints import passing
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider.activities import Activities
from shem.provider.agreements import Agreements
from shem.provider.durations import show_duration
from shem.provider.records import AgreementRecord, AgreementState, Records
from shem.provider.silence import AbsenceTerm, Sign, after, overdue, term_of
from shem.rest.client import RestClient
from shem.rest.errors import ApiError, Disconnected

PING: Final = "diagnostic/net/GsbRemotePing"
PING_TIMEOUT_S: Final = 10.0
ASK_PERIOD_S: Final = 30.0
ASK_PERIOD_LEAST_S: Final = 0.5
ASKS_PER_TERM: Final = 4
"""A short term is asked about so often within it, at least."""
LOOK_PERIOD_S: Final = 0.5
REFUSED_BY_PEER: Final = ("endpoint address not found", "No such endpoint")
"""A node that does not know the ping has answered."""
CODE: Final = "RequestorUnreachable"

log = structlog.get_logger()


class Absence:
    """Watches over the requestors."""

    def __init__(
        self,
        *,
        gsb_url: str,
        records: Records,
        agreements: Agreements,
        activities: Activities,
        client: RestClient,
        world: World,
        scope: TaskScope,
    ) -> None:
        self._gsb_url = gsb_url
        self._records = records
        self._agreements = agreements
        self._activities = activities
        self._client = client
        self._world = world
        self._scope = scope
        self._seen: set[str] = set()

    async def run(self) -> None:
        """Watch over all agreements with such a term, for ever."""
        since = await self._records.silences()
        for agreement_id in since:
            if not self._agreements.is_approved(agreement_id):
                await self._records.set_silence(agreement_id, None)
        while not (found := self._new_terms()):
            await self._world.clock.sleep(LOOK_PERIOD_S)
        address = parse_gsb_url(self._gsb_url)
        async with BusClient(address, name="shem-provider", world=self._world) as bus:
            while True:
                for record, term in found:
                    watching = self._watch(bus, record, term, since.get(record.agreement_id))
                    self._scope.spawn(watching, f"absence {record.agreement_id}")
                await self._world.clock.sleep(LOOK_PERIOD_S)
                found = self._new_terms()

    def _new_terms(self) -> list[tuple[AgreementRecord, AbsenceTerm]]:
        """Return the agreements with a term that were not looked at yet."""
        approved = self._agreements.in_state(AgreementState.APPROVED)
        new = [record for record in approved if record.agreement_id not in self._seen]
        self._seen = {record.agreement_id for record in approved}
        return [(record, term) for record in new if (term := term_of(record.offer))]

    async def _watch(
        self, bus: BusClient, record: AgreementRecord, term: AbsenceTerm, since_ns: int | None
    ) -> None:
        """Ask after one requestor until its agreement is over."""
        agreement_id = record.agreement_id
        period_s = max(ASK_PERIOD_LEAST_S, min(ASK_PERIOD_S, term.max_s / ASKS_PER_TERM))
        while self._agreements.is_approved(agreement_id):
            sign = await self._ask(bus, record.requestor)
            now_ns = self._world.clock.wall_ns()
            found_ns = after(since_ns, sign, now_ns)
            if found_ns != since_ns:
                event = "requestor.heard" if found_ns is None else "requestor.silent"
                log.info(event, agreement=agreement_id, peer=record.requestor)
                await self._records.set_silence(agreement_id, found_ns)
                passing("agent.silence_recorded")
                since_ns = found_ns
            if overdue(since_ns, sign, term, now_ns):
                await self._act(agreement_id, term)
            await self._world.clock.sleep(period_s)
        await self._records.set_silence(agreement_id, None)

    async def _act(self, agreement_id: str, term: AbsenceTerm) -> None:
        """Do what was agreed; again at the next look, until the agreement is over."""
        if term.action == "finish" and self._activities.finish(agreement_id):
            return
        message = f"Requestor is unreachable more than {show_duration(term.max_s)}"
        await self._agreements.break_off(agreement_id, CODE, message)

    async def _ask(self, bus: BusClient, requestor: str) -> Sign:
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await bus.request(f"/net/{requestor}/{PING}", {}, timeout_s=PING_TIMEOUT_S)
        except RemoteError:
            return Sign.LIFE
        except (ShemError, TimeoutError) as error:
            if isinstance(error, GsbError) and any(word in str(error) for word in REFUSED_BY_PEER):
                return Sign.LIFE
            return Sign.SILENCE if await self._is_on_the_net() else Sign.UNKNOWN
        return Sign.LIFE

    async def _is_on_the_net(self) -> bool:
        """Whether the silence can be the requestor's: our node is there and has sessions."""
        try:
            return (await self._client.net.status()).sessions > 0
        except (ApiError, Disconnected):
            return False
