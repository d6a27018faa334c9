"""What must be true when the dust has settled: what was acknowledged is kept, both sides agree.

Every contradiction is one line in `History.broken`.
"""

import asyncio
import time
from collections import Counter
from pathlib import Path

from shem.devnet.compose import Devnet
from shem.exeunit.journal import decode_records
from shem.rest.client import RestClient
from shem.rest.errors import ApiError
from shem.rest.models import AgreementOperationEvent, ExeScriptCommandResult, ProviderEvent
from tests.crash.history import SETTLED, Facts
from tests.crash.slice_load import EventReader, Load
from tests.crash.slice_trader import Deal

SETTLE_WITHIN_S = 30.0
AGREE_WITHIN_S = 30.0
LONG_AGO = "2020-01-01T00:00:00Z"
NOT_BEGUN = "Local service error: State error"
"""How the result of a command begins that was refused, the runtime being busy."""
INTERRUPTED = "interrupted, outcome unknown"
"""How the result of a command begins whose ExeUnit, or activity, ended while it ran."""
WHO = "judge"


class Verdict:
    """Judges the books of a load against both nodes and the payload's own ledgers."""

    def __init__(self, net: Devnet, load: Load, readers: list[EventReader]) -> None:
        self.net = net
        self.load = load
        self.requestor = load.rest
        self.provider = load.provider
        self.readers = readers
        self.wrong = load.history.wrong

    async def judge(self, deals: list[Deal]) -> None:
        """Check everything that can be checked without knowing the future."""
        activities = {self.load.activity_id: True}
        activities |= {deal.activity_id: False for deal in deals if deal.activity_id}
        for activity_id, lives in activities.items():
            await self.batches(activity_id, lives=lives)
        await self._agreements(deals)
        for deal in deals:
            await self._activities_of(deal)
        for reader in self.readers:
            await self._agreement_events(reader, deals)
        await self._activity_events(deals)
        self._journals()
        self._logs()

    # ---- batches -------------------------------------------------------------------------------

    async def batches(self, activity_id: str, *, lives: bool) -> None:
        """Check what is told of an activity's batches against the payload's own ledger."""
        listed = await self._settled(activity_id, lives=lives)
        mine = [f for f in self.load.batches.values() if f.activity_id == activity_id]
        for facts in mine:
            if listed.get(facts.batch_id or "") == "accepted":
                await self.load.read_results(WHO, facts, timeout_s=5.0)
        ledger = Counter(self.ledger(activity_id))
        if not ledger and not lives:
            return
        for facts in mine:
            self._judge_batch(facts, ledger, lives=lives)
        known = {line for facts in mine for trace in facts.traces for line in trace}
        strange = set(ledger) - known
        if strange:
            self.wrong(f"the ledger of {activity_id} has lines that nobody asked for: {strange}")

    async def _settled(self, activity_id: str, *, lives: bool) -> dict[str, str]:
        """Ask until the fate of every batch is known; returns the list."""
        deadline = time.monotonic() + SETTLE_WITHIN_S
        while True:
            listed = await self.load.read_list(WHO, activity_id) or {}
            open_ = {name: state for name, state in listed.items() if state not in SETTLED}
            if listed and not open_:
                return listed
            if time.monotonic() > deadline:
                if lives:
                    self.wrong(f"never settled in {activity_id}: {open_} of {len(listed)}")
                return listed
            await asyncio.sleep(0.1)

    def ledger(self, activity_id: str) -> list[str]:
        """Read what the payload itself wrote down."""
        found: list[str] = []
        for path in self.net.directory.glob(
            f"agent/data/exe-unit/work/*/{activity_id}/vol-*/ledger.txt"
        ):
            found += path.read_text().splitlines()
        return found

    def _judge_batch(self, facts: Facts, ledger: Counter[str], *, lives: bool) -> None:
        if facts.told == "accepted":
            ended = len(facts.results) == len(facts.traces) or any(
                result.result == "Error" for result in facts.results
            )
            if not ended and lives:
                self.wrong(f"{facts.tag}: accepted, with only {len(facts.results)} results")
        elif facts.acknowledged:
            self.wrong(f"{facts.tag}: acknowledged, and then {facts.told}")
        for position, trace in enumerate(facts.traces):
            told = facts.results[position] if position < len(facts.results) else None
            least, most = _executions(facts, told, position, lives=lives)
            for line in trace:
                if not least <= ledger[line] <= most:
                    self.wrong(
                        f"{facts.tag} ({facts.told}): {line!r} is {ledger[line]} times in the"
                        f" ledger, its result is {told}"
                    )

    # ---- agreements, activities ----------------------------------------------------------------

    async def _agreements(self, deals: list[Deal]) -> None:
        """Both sides have all acknowledged agreements, in the same states."""
        await self.load.read_agreements(WHO)
        entries = [e.id for e in await self.requestor.market.agreements.find()]
        if len(entries) != len(set(entries)):
            self.wrong("an agreement is listed twice")
        states = {entry: await self._agreed_state(entry) for entry in entries}
        theirs = {entry.id for entry in await self.provider.market.agreements.find()}
        if theirs - set(entries):
            self.wrong(f"the provider has agreements that we do not know: {theirs - set(entries)}")
        for deal in deals:
            state = states.get(deal.agreement_id)
            if deal.terminated and state != "Terminated":
                self.wrong(f"agreement {deal.agreement_id} was terminated, now {state}")
            if deal.approved and state not in ("Approved", "Terminated"):
                self.wrong(f"agreement {deal.agreement_id} was approved, now {state}")

    async def _agreed_state(self, agreement_id: str) -> str:
        """Return the state once both sides have the same; an unsent proposal has one side."""
        deadline = time.monotonic() + AGREE_WITHIN_S
        while True:
            ours = await _state_at(self.requestor, agreement_id)
            theirs = await _state_at(self.provider, agreement_id)
            if ours == theirs or (ours in ("Proposal", "Expired") and theirs == "none"):
                return ours
            if time.monotonic() > deadline:
                self.wrong(f"agreement {agreement_id}: {ours} here, {theirs} at the provider")
                return ours
            await asyncio.sleep(0.1)

    async def _activities_of(self, deal: Deal) -> None:
        ours = await self.requestor.activity.of_agreement(deal.agreement_id)
        theirs = await self.provider.activity.of_agreement(deal.agreement_id)
        if set(ours) - set(theirs) or len(theirs) > 1:
            self.wrong(f"deal {deal.agreement_id}: activities {ours} here, {theirs} there")
        if deal.activity_id is None:
            for activity_id in theirs:  # it came too late for its creator
                await self.until_terminated(activity_id, self.provider)
            return
        if deal.activity_id not in ours:
            self.wrong(f"activity {deal.activity_id} was acknowledged and is gone")
            return
        if deal.destroyed or deal.terminated:
            await self.until_terminated(deal.activity_id, self.requestor, self.provider)

    async def until_terminated(self, activity_id: str, *nodes: RestClient) -> None:
        """Wait until all of them say that an activity has ended."""
        deadline = time.monotonic() + AGREE_WITHIN_S
        while True:
            found = [(await node.activity.state(activity_id)).current for node in nodes]
            if set(found) == {"Terminated"}:
                return
            if time.monotonic() > deadline:
                self.wrong(f"activity {activity_id} was ended, and is {found}")
                return
            await asyncio.sleep(0.1)

    # ---- events, logs --------------------------------------------------------------------------

    async def _agreement_events(self, reader: EventReader, deals: list[Deal]) -> None:
        """Who followed by cursor saw what is in the log: each event once, in order."""
        while await reader.read(0.0):
            pass
        anew = EventReader(reader.rest, WHO, self.load)
        while await anew.read(0.0):
            pass
        if reader.seen != anew.seen:
            self.wrong(f"{reader.name}: {len(reader.seen)} events followed, {len(anew.seen)} kept")
        dates = [event.event_date for event in anew.seen]
        if dates != sorted(set(dates)):
            self.wrong(f"{reader.name}: the dates of events do not grow")
        counts = Counter((event.agreement_id, event.event_type) for event in anew.seen)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            self.wrong(f"{reader.name}: events twice in the log: {twice}")
        for deal in deals:
            self._check_told(reader.name, deal, anew.seen)

    def _check_told(self, name: str, deal: Deal, events: list[AgreementOperationEvent]) -> None:
        told = [event.event_type for event in events if event.agreement_id == deal.agreement_id]
        if deal.approved and "AgreementApprovedEvent" not in told:
            self.wrong(f"{name}: no event of the approval of {deal.agreement_id}")
        if deal.terminated and told[-1:] != ["AgreementTerminatedEvent"]:
            self.wrong(f"{name}: the events of {deal.agreement_id} are {told}")

    async def _activity_events(self, deals: list[Deal]) -> None:
        events: list[ProviderEvent] = []
        after = LONG_AGO
        while found := await self.provider.activity.events(after=after, timeout_s=0):
            events += found
            after = found[-1].event_date
        created = Counter(e.activity_id for e in events if e.kind == "CreateActivity")
        twice = [activity_id for activity_id, count in created.items() if count > 1]
        if twice:
            self.wrong(f"CreateActivity events twice in the log: {twice}")
        missing = [d.activity_id for d in deals if d.activity_id and not created[d.activity_id]]
        if missing:
            self.wrong(f"no CreateActivity event of {missing}")

    def _journals(self) -> None:
        """No ExeUnit accepted a batch twice, or noted two results of one command."""
        for path in self.net.directory.glob("agent/data/exe-unit/work/*/*/journal"):
            records, _ = decode_records(path.read_bytes())
            noted = Counter(
                (record["kind"], record["batch"], record.get("index"))
                for record in records
                if record["kind"] in ("accepted", "result")
            )
            twice = [what for what, count in noted.items() if count > 1]
            if twice:
                self.wrong(f"twice in {path}: {twice}")

    def _logs(self) -> None:
        for path in self.net.directory.rglob("*.log"):
            if "Traceback" in path.read_text(errors="replace"):
                self.wrong(f"a traceback in {path}")


def _executions(
    facts: Facts, told: ExeScriptCommandResult | None, position: int, *, lives: bool
) -> tuple[int, int]:
    """Return how often, at least and at most, a command may have been executed."""
    if facts.told == "accepted" and told is not None and told.result == "Ok":
        return 1, 1
    if told is not None and (told.message or "").startswith(NOT_BEGUN):
        return 0, 0
    if told is not None and (told.message or "").startswith(INTERRUPTED):
        return 0, 1
    open_end = not lives and facts.told in (None, "accepted", "unknown")
    return (0, 1) if open_end and position >= len(facts.results) - 1 else (0, 0)


async def _state_at(node: RestClient, agreement_id: str) -> str:
    try:
        return (await node.market.agreements.get(agreement_id)).state
    except ApiError as error:
        if error.status == 404:
            return "none"
        raise


def log_count(path: Path, words: str) -> int:
    """Count the lines of a log that say so."""
    return path.read_text(errors="replace").count(words) if path.exists() else 0
