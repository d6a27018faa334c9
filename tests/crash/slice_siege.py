"""One devnet under load whose processes are killed, again and again, and what is seen of it.

The seed decides everything that we draw (not the machine's timing); it is printed, and
`SHEM_CRASH_SEED` sets it.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET, Program
from shem.rest.errors import ApiError, Disconnected
from tests.crash.history import History
from tests.crash.slice_load import SCENE, EventReader, Load
from tests.crash.slice_trader import Trader
from tests.crash.slice_verdict import Verdict, log_count

MOMENT_MAX_S = 1.2
"""A kill comes at a random moment up to so long after the last recovery."""
AIMED_CHANCE = 0.6
"""How often it is a moment at which a call of a certain kind is under way."""
AIMS = ("exec", "agreement", "confirm", "wait", "create", "destroy", "terminate", "counter")
AIM_WITHIN_S = 2.0
AFTER_BEGIN_MAX_S = 0.04
DOWNTIME_MAX_S = 0.6
AGAIN_CHANCE = 0.15
"""How often a process is killed again while it starts."""
AGAIN_WITHIN_S = 1.5
PROBE_WITHIN_S = 30.0
ENDED_WITHIN_S = 20.0
PROBE_PAUSE_S = 0.02
UP_WORDS = {"agent": "agent.up", "relay": "relay listening on "}
"""What the programs that have no REST API of their own say when they are up."""


@dataclass(slots=True)
class Siege:
    """The devnet, its clients, and the figures of each recovery (seconds from the start)."""

    net: Devnet
    rng: random.Random
    load: Load
    trader: Trader
    verdict: Verdict
    unit: int
    """The process id of the ExeUnit under siege: it never changes."""
    figures: dict[str, list[float]] = field(default_factory=dict)
    rounds_done: int = 0

    def program(self, name: str) -> Program:
        """Return a program of the devnet by its name."""
        net = self.net
        programs = (net.requestor.program, net.provider.program, net.agent, net.relay)
        return next(program for program in programs if program.name == name)

    # ---- killing -------------------------------------------------------------------------------

    async def strike(self, *victims: Program) -> None:
        """One round: kill at a random moment, start again, and look whether all goes on."""
        await self._moment()
        await kill(victims)
        await self.load.pause(0.0, DOWNTIME_MAX_S)
        if self.rng.random() < AGAIN_CHANCE:
            await self._begin_in_vain(victims)
        await self.start(*victims)
        await self.attach()
        self.load.raise_failure()
        self.rounds_done += 1

    async def _moment(self) -> None:
        """Wait for a random moment, or for one just after a random kind of call has begun."""
        await self.load.pause(0.05, MOMENT_MAX_S)
        if self.rng.random() < AIMED_CHANCE:
            await self.load.history.begins(self.rng.choice(AIMS), AIM_WITHIN_S)
            await self.load.pause(0.0, AFTER_BEGIN_MAX_S)

    async def _begin_in_vain(self, victims: Sequence[Program]) -> None:
        """Start, and kill again somewhere on the way up."""
        starting = asyncio.gather(*(victim.start() for victim in victims))
        with suppress(TimeoutError):
            await asyncio.wait_for(starting, self.rng.uniform(0.0, AGAIN_WITHIN_S))
        await kill(victims)

    async def start(self, *victims: Program) -> None:
        """Start again; measure until REST answers, the peer answers, and a result comes."""
        began = time.monotonic()
        probe = asyncio.create_task(self._probe(began, {victim.name for victim in victims}))
        try:
            await asyncio.gather(*(start_up(victim) for victim in victims))
            self._measure("start", began)
            await probe
        finally:
            probe.cancel()

    async def _probe(self, began: float, names: set[str]) -> None:
        rest = self.load.provider if names == {"provider"} else self.load.rest
        await answered(rest.identity.me)
        self._measure("first REST answer", began)
        state = self.load.rest.activity.state
        await answered(lambda: state(self.load.activity_id, timeout_s=1))
        self._measure("first answer of the peer", began)
        facts = self.load.new_batch(f"probe-{self.rounds_done}-{began:.3f}", chosen=True)
        async with asyncio.timeout(PROBE_WITHIN_S):
            await self.load.submit("probe", facts)
            while facts.told == "accepted" and not facts.results:
                await self.load.read_results("probe", facts, timeout_s=1)
        self._measure("first new result", began)

    def _measure(self, what: str, began: float) -> None:
        self.figures.setdefault(what, []).append(time.monotonic() - began)

    async def attach(self) -> None:
        """A program comes back by the activity id alone and finds all that was acknowledged."""
        load, requestor = self.load, self.net.requestor
        due = [f for f in load.batches.values() if f.acknowledged]
        due = [f for f in due if f.activity_id == load.activity_id]
        began = time.monotonic()
        async with (
            shem.Golem(
                "crash", api_url=requestor.api_url, app_key=requestor.app_key, subnet=SUBNET
            ) as golem,
            golem.attach(load.activity_id) as activity,
        ):
            report = activity.report
        self._measure("attach", began)
        if not report.alive:
            load.history.wrong(f"attached, and the activity is {report.liveness}: {report.state}")
        found = {batch.batch_id: batch for batch in report.batches}
        for facts in due:
            if facts.batch_id not in found:
                load.history.wrong(f"{facts.tag} was acknowledged, and attach does not find it")

    # ---- the end -------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Stop the load, judge, and judge once more after everybody died and came back."""
        await self.load.stop()
        await self.verdict.judge(self.trader.deals)
        victims = (self.net.requestor.program, self.net.provider.program, self.net.agent)
        await kill(victims)
        await asyncio.gather(*(start_up(victim) for victim in victims))
        await self.verdict.judge(self.trader.deals)
        units = self.net.exe_units()
        if units != [self.unit]:
            self.load.history.wrong(f"ExeUnits {units} are left, not {[self.unit]} alone")
        await self._end_agreement()

    async def _end_agreement(self) -> None:
        agreement_id = await self.load.rest.activity.agreement(self.load.activity_id)
        await self.load.rest.market.agreements.terminate(agreement_id, {"message": "the end"})
        async with asyncio.timeout(ENDED_WITHIN_S):
            while self.net.exe_units():  # noqa: ASYNC110 - other processes make it true
                await asyncio.sleep(0.1)

    def require_unbroken(self, rounds: int) -> None:
        """Fail when anything was found wrong; the figures are shown with `pytest -s`."""
        broken = self.load.history.broken
        print(self.report(), *broken, sep="\n")  # noqa: T201
        assert broken == []
        assert self.rounds_done == rounds

    def report(self) -> str:
        """Return the figures and the counts of calls as text."""
        lines = [f"{self.rounds_done} rounds, {len(self.trader.deals)} deals"]
        for what, seconds in self.figures.items():
            ordered = sorted(seconds)
            lines.append(
                f"  {what:26} median {median(ordered):6.3f} s, most {ordered[-1]:6.3f} s"
                f" ({len(ordered)})"
            )
        for op, counts in sorted(self.load.history.counts().items()):
            longest_s = max(call.took_s for call in self.load.history.calls if call.op == op)
            found = ", ".join(f"{count} {name}" for name, count in counts.items())
            lines.append(f"  {op:20} at most {longest_s:6.3f} s, {found}")
        fates = [f.told for f in self.load.batches.values()]
        lines.append("  batches: " + ", ".join(f"{fates.count(t)} {t}" for t in set(fates)))
        return "\n".join(lines)


@asynccontextmanager
async def siege(directory: Path, *, loaded: bool = True) -> AsyncIterator[Siege]:
    """Start a devnet, rent an activity, and set the load on it (or nobody, to strike aimed)."""
    seed = int(os.environ.get("SHEM_CRASH_SEED") or time.time_ns() % 1_000_000)
    print(f"\nSHEM_CRASH_SEED={seed} in {directory}")  # noqa: T201 - shown when a test fails
    rng = random.Random(seed)
    async with Devnet(directory) as net, net.requestor.rest() as rest, net.provider.rest() as other:
        load = Load(rest, other, History(), rng)
        load.activity_id = await rent(net)
        load.foreign = {entry.batch_id for entry in await rest.activity.batches(load.activity_id)}
        readers = [EventReader(rest, "requestor's events", load)]
        readers.append(EventReader(other, "provider's events", load))
        trader = Trader(load, net.package, (await rest.identity.me()).identity)
        [unit] = net.exe_units()
        verdict = Verdict(net, load, readers)
        if loaded:
            load.start(load.batcher("one", pause_s=0.2), load.batcher("two", pause_s=2.0))
            load.start(load.reader("reader"), trader.run())
        load.start(*(reader.run() for reader in readers))
        try:
            yield Siege(net, rng, load, trader, verdict, unit)
        finally:
            await load.cancel()
    assert net.killed_at_end == [], net.killed_at_end


async def rent(net: Devnet) -> str:
    """Rent an activity by the SDK and leave it running; returns its id."""
    requestor = net.requestor
    async with (
        shem.Golem(
            "crash", api_url=requestor.api_url, app_key=requestor.app_key, subnet=SUBNET
        ) as golem,
        golem.rent(net.package, on_exit="detach") as activity,
    ):
        await activity.run("mandel", "scene", SCENE, check=True)
        return activity.id


async def kill(victims: Sequence[Program]) -> None:
    """SIGKILL them all at once."""
    await asyncio.gather(*(victim.kill() for victim in victims))


async def start_up(victim: Program) -> None:
    """Start a program and wait until it is up, by its own words where it has no REST API."""
    words = UP_WORDS.get(victim.name)
    before = log_count(victim.log, words) if words else 0
    await victim.start()
    async with asyncio.timeout(PROBE_WITHIN_S):
        while words and log_count(victim.log, words) <= before:
            assert victim.child is not None
            victim.child.check()
            await asyncio.sleep(PROBE_PAUSE_S)


async def answered(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask until there is an answer."""
    async with asyncio.timeout(PROBE_WITHIN_S):
        while True:
            try:
                await ask()
            except (ApiError, Disconnected):
                await asyncio.sleep(PROBE_PAUSE_S)
            else:
                return
