"""Whole negotiations of two markets, as Hypothesis drives them through bad weather.

Programs of both sides do what they like, in any order; messages are lost, doubled, late and
reordered; nodes are stopped at any moment and start again; a stranger forges. When the weather
clears both sides have to tell the same story, with every event once.
"""

import asyncio
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import ShemError
from shem.kernel.times import NS_PER_S
from shem.market import subscriptions
from shem.market.agreement_rows import load_agreements
from shem.market.ids import Role, lettered
from shem.market.records import AgreementRow
from tests.sim.market_pair import (
    DEMAND,
    DEMAND_CONSTRAINTS,
    OFFER,
    OFFER_CONSTRAINTS,
    Side,
)
from tests.sim.market_storm import Storm, attempt
from tests.sim.virtual_time import VirtualTimeLoop

EXAMPLES = int(os.environ.get("SHEM_MARKET_EXAMPLES", "20"))
STEPS = int(os.environ.get("SHEM_MARKET_STEPS", "30"))
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
VALID_S = 10 * 3600
SETTLED_S = 4000
"""All back-offs of the outbox, and the hourly comparison of copies."""
FORGED = {"message": "forged"}
REASON = {"message": "by hand"}
R, P = Role.REQUESTOR, Role.PROVIDER

LOGS = {
    "Proposal": [],
    "Pending": [],
    "Expired": [],
    "Rejected": ["Rejected"],
    "Cancelled": ["Cancelled"],
    "Approved": ["Approved"],
    "Terminated": ["Approved", "Terminated"],
}
TOGETHER = {
    ("Proposal", None),
    ("Pending", "Pending"),
    ("Approved", "Approved"),
    ("Terminated", "Terminated"),
    ("Rejected", "Rejected"),
    ("Cancelled", None),
    ("Cancelled", "Cancelled"),
    ("Cancelled", "Rejected"),
}
"""How both copies may stand in the end; the last when each ended it before hearing of the other."""

any_index = st.integers(0, 30)
some_side = st.sampled_from(list(Role))


@dataclass
class Act:
    """Something a program asked for."""

    name: str
    role: Role
    target: Any
    task: "asyncio.Task[Any]"

    @property
    def succeeded(self) -> bool:
        if not self.task.done() or self.task.cancelled():
            return False
        return not isinstance(self.task.result(), ShemError)


@contextmanager
def long_and_quiet() -> Iterator[None]:
    """Let subscriptions outlive the story, and keep its expected warnings out of the report."""
    before, ttl_ns = structlog.get_config(), subscriptions.TTL_NS
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    subscriptions.TTL_NS = VALID_S * NS_PER_S  # type: ignore[misc]
    try:
        yield
    finally:
        subscriptions.TTL_NS = ttl_ns  # type: ignore[misc]
        structlog.configure(**before)


class MarketMachine(RuleBasedStateMachine):
    """The rules, and what must hold."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def open(self, seed: int) -> None:
        self.around = long_and_quiet()
        self.around.__enter__()
        self.folder = Path(tempfile.mkdtemp(dir=FAST))
        self.loop = VirtualTimeLoop()
        self.storm = Storm(self.folder, seed)
        self.acts: list[Act] = []
        self.proposals: dict[Role, list[str]] = {R: [], P: []}
        self.agreements: dict[Role, list[str]] = {R: [], P: []}
        self.told: dict[Role, list[str]] = {R: [], P: []}
        self.run(self._open())

    async def _open(self) -> None:
        await self.storm.open()
        requestor, provider = self.storm.sides[R], self.storm.sides[P]
        self.subscriptions = {R: await requestor.seek()}
        self.subscriptions[P] = await provider.publish()
        while not self.proposals[R]:
            await asyncio.sleep(0.1)
            await self._collect(R)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    # --- what programs do ---

    @rule(role=some_side)
    def collect(self, role: Role) -> None:
        self.run(self._collect(role))

    async def _collect(self, role: Role) -> None:
        kind = "demand" if role is R else "offer"
        events = await attempt(
            self.storm.sides[role].events(kind, self.subscriptions[role], 0.0, 100)
        )
        for event in events if isinstance(events, list) else []:
            if "proposal" in event:
                self._note(self.proposals[role], event["proposal"]["proposalId"])
                self.told[role].append(event["proposal"]["proposalId"])
            elif "agreement" in event:
                self._note(self.agreements[role], event["agreement"]["agreementId"])
                self.told[role].append(event["agreement"]["agreementId"])
            else:
                assert event.get("reason") != FORGED

    def _note(self, known: list[str], new: str) -> None:
        if new not in known:
            known.append(new)

    @rule(role=some_side, index=any_index)
    def counter(self, role: Role, index: int) -> None:
        side = self.storm.sides[role]
        mine = (OFFER, OFFER_CONSTRAINTS) if role is P else (DEMAND, DEMAND_CONSTRAINTS)
        if target := self._pick(self.proposals[role], index):
            self._spawn(
                "counter",
                role,
                target,
                side.market.counter(
                    side.who,
                    role,
                    self.subscriptions[role],
                    target,
                    properties=mine[0],
                    constraints=mine[1],
                ),
            )

    @rule(role=some_side, index=any_index)
    def reject_proposal(self, role: Role, index: int) -> None:
        side = self.storm.sides[role]
        if target := self._pick(self.proposals[role], index):
            self._spawn(
                "reject_proposal",
                role,
                target,
                side.market.reject_proposal(
                    side.who, role, self.subscriptions[role], target, reason=REASON
                ),
            )

    @rule(index=any_index)
    def create(self, index: int) -> None:
        side = self.storm.sides[R]
        valid_to_ns = VALID_S * NS_PER_S + self.run(self._now())
        if target := self._pick(self.proposals[R], index):
            made = self.run(
                attempt(side.market.create_agreement(side.who, target, valid_to_ns))  # type: ignore[arg-type]
            )
            if isinstance(made, str):
                self.agreements[R].append(made)

    async def _now(self) -> int:
        return self.storm.world.clock.wall_ns()

    @rule(index=any_index, timeout_s=st.sampled_from([0.5, 5.0, 30.0]))
    def confirm(self, index: int, timeout_s: float) -> None:
        side = self.storm.sides[R]
        if target := self._pick(self.agreements[R], index):
            self._spawn("confirm", R, target, side.market.confirm(side.who, target, "s", timeout_s))

    @rule(index=any_index, timeout_s=st.sampled_from([0.0, 5.0, 30.0]))
    def approve(self, index: int, timeout_s: float) -> None:
        side = self.storm.sides[P]
        if target := self._pick(self.agreements[P], index):
            self._spawn("approve", P, target, side.market.approve(side.who, target, "s", timeout_s))

    @rule(index=any_index)
    def wait(self, index: int) -> None:
        side = self.storm.sides[R]
        if target := self._pick(self.agreements[R], index):
            self._spawn("wait", R, target, side.market.wait(side.who, target, 20.0))

    @rule(role=some_side, index=any_index)
    def withdraw(self, role: Role, index: int) -> None:
        """Cancel as the requestor, reject as the provider."""
        side = self.storm.sides[role]
        act = side.market.cancel if role is R else side.market.reject
        if target := self._pick(self.agreements[role], index):
            self._spawn("withdraw", role, target, act(side.who, target, REASON))

    @rule(role=some_side, index=any_index)
    def terminate(self, role: Role, index: int) -> None:
        side = self.storm.sides[role]
        if target := self._pick(self.agreements[role], index):
            self._spawn("terminate", role, target, side.market.terminate(side.who, target, REASON))

    def _pick(self, known: list[str], index: int) -> Any:
        return known[-1 - index % len(known)] if known else None

    def _spawn(self, name: str, role: Role, target: str, act: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(attempt(act))
        self.acts.append(Act(name, role, target, task))
        self.run(asyncio.sleep(0))

    # --- what the world does ---

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 10.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(stormy=st.booleans())
    def weather(self, stormy: bool) -> None:
        self.storm.weather.is_stormy = stormy

    @rule(cut=st.booleans())
    def link(self, cut: bool) -> None:
        if cut:
            self.storm.fabric.cut(*self.storm.ids())
        else:
            self.storm.fabric.join(*self.storm.ids())

    @rule(role=some_side)
    def restart(self, role: Role) -> None:
        self.run(self._restart(role))

    async def _restart(self, role: Role) -> None:
        for act in self.acts:
            if act.role is role:
                act.task.cancel()
        await asyncio.sleep(0)
        await self.storm.restart(role)

    @rule(index=st.integers(0, 200))
    def an_old_message_comes_again(self, index: int) -> None:
        self.run(self._again(index))

    async def _again(self, index: int) -> None:
        self.storm.say_again(index)
        await asyncio.sleep(0.05)

    @rule(role=some_side, index=any_index, message=st.integers(0, 6))
    def a_stranger_forges(self, role: Role, index: int, message: int) -> None:
        self.run(self._forge(role, index, message))

    async def _forge(self, role: Role, index: int, message: int) -> None:
        agreement = self._pick(self.agreements[R] + self.agreements[P], index)
        proposal = self._pick(self.proposals[role], index)
        victim, stranger = self.storm.sides[role], self.storm.stranger
        base = f"/net/{victim.node_id}/market/protocol/mk1/negotiation/{role.lower()}"
        name = "" if agreement is None else lettered(agreement, role)
        at = "2027-01-15T08:00:00"
        forged: list[tuple[str, dict[str, Any]]] = [
            ("agreement/AgreementCancelled", {"reason": FORGED, "cancellationTs": at}),
            ("agreement/AgreementRejected", {"reason": FORGED, "rejectionTs": at}),
            ("agreement/AgreementCommitted", {"signature": "x"}),
            ("agreement/AgreementApproved", {"signature": "x", "approvedTs": at}),
            (
                "agreement/AgreementTerminated",
                {"reason": FORGED, "signature": "x", "terminationTs": at},
            ),
            ("proposal/ProposalRejected", {"initial": False, "reason": FORGED}),
            ("../AgreementStates", {"agreementIds": [agreement], "role": role}),
        ]
        path, body = forged[message]
        body |= {"proposalId": proposal or ""} if "proposal/" in path else {"agreementId": name}
        as_victim = self.storm.sides[role.other].node_id
        for own in (stranger.node_id, as_victim):
            caller = Caller(own, Assurance.LOCAL)
            answer = await attempt(
                stranger.bus.request(caller, f"{base}/{path}", body, timeout_s=5)
            )
            assert isinstance(answer, ShemError), (path, answer)

    # --- what holds ---

    @invariant()
    def no_event_is_there_twice(self) -> None:
        if hasattr(self, "subscriptions"):
            for role in Role:
                log = self.run(self._log(role))
                assert len(log) == len(set(log)), log

    async def _log(self, role: Role) -> list[tuple[str, str]]:
        side = self.storm.sides[role]
        found = await side.market.agreement_events(
            side.who, after_ns=0, session=None, timeout_s=0, most=1000
        )
        return [(event.agreement_id, str(event.kind)) for event in found]

    def teardown(self) -> None:
        if not hasattr(self, "storm"):
            return
        try:
            if hasattr(self, "subscriptions"):
                self.run(self._end())
        finally:
            self.run(self.storm.close())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.around.__exit__(None, None, None)

    async def _end(self) -> None:
        await self.storm.settle(SETTLED_S)
        await asyncio.gather(*(act.task for act in self.acts), return_exceptions=True)
        await self.storm.settle(200)
        for role in Role:
            await self._collect(role)
            await self._collect(role)
        copies = {role: await self._copies(self.storm.sides[role]) for role in Role}
        assert copies[P].keys() <= copies[R].keys()
        for agreement_id, ours in copies[R].items():
            theirs = copies[P].get(agreement_id)
            states = (str(ours.state), None if theirs is None else str(theirs.state))
            assert states in TOGETHER, states
        for role in Role:
            logs: dict[str, list[str]] = {}
            for agreement_id, kind in await self._log(role):
                logs.setdefault(agreement_id, []).append(kind)
            for agreement_id, row in copies[role].items():
                assert logs.get(agreement_id, []) == LOGS[str(row.state)], (row.state, logs)
        self._check_promises(copies)
        await self._check_proposals()

    async def _copies(self, side: Side) -> dict[str, AgreementRow]:
        found = {}
        for agreement_id in {*self.agreements[R], *self.agreements[P]}:
            for row in await load_agreements(side.store.fetch, agreement_id):
                found[agreement_id] = row
        return found

    def _check_promises(self, copies: dict[Role, dict[str, AgreementRow]]) -> None:
        """What a program was told to be done, is done."""
        for act in self.acts:
            if not act.succeeded:
                continue
            states = {
                role: str(copies[role][act.target].state)
                for role in Role
                if act.target in copies[role]
            }
            match act.name:
                case "terminate":
                    assert set(states.values()) == {"Terminated"}
                case "approve" | "wait":
                    assert set(states.values()) <= {"Approved", "Terminated"}
                    assert len(states) == 2
                case "confirm":
                    assert P in states
                case "withdraw":
                    assert states[act.role] in ("Cancelled", "Rejected")

    async def _check_proposals(self) -> None:
        """Every proposal that a side took was told to its program; both know it alike."""
        rows: dict[Role, dict[str, Any]] = {}
        for role in Role:
            found = await self.storm.sides[role].store.fetch("SELECT * FROM proposal LIMIT 1000")
            rows[role] = {row["proposal_id"][2:]: row for row in found}
            for row in found:
                if row["issuer"] != row["identity"]:
                    assert row["proposal_id"] in self.told[role] or row["countered_by"]
        ours, theirs = rows[R], rows[P]
        for name in ours.keys() & theirs.keys():
            assert ours[name]["properties"] == theirs[name]["properties"]
            assert ours[name]["issuer"] == theirs[name]["issuer"]
        for side, other in itertools.permutations((ours, theirs)):
            for name, row in side.items():
                if row["delivery"] == "delivered":
                    assert name in other
                assert row["delivery"] != "posted"


MarketMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
test_both_sides_tell_the_same_story = MarketMachine.TestCase
