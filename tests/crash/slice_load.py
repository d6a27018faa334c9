"""Clients of a requestor's node that never stop asking: batches, polls, lists, agreements.

They behave as honest programs do: what was not answered is asked for or repeated under the same
id, never under a new one. Everything goes through the `History`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from shem.rest.client import RestClient
from shem.rest.models import AgreementOperationEvent
from shem.sdk.script import Command, Deploy, Run, Start, encode
from tests.crash.history import SETTLED, TOO_LATE, Call, Facts, History

SCENE = """\
centre -0.743643887037151 0.131825904205330
width 0.02 0.0002
size 200 150
iterations 1000
"""
"""A frame of it is about a tenth of a second of work."""
FRAMES = 4
EXEC_TIMEOUT_S = 2.0
AWAY_PAUSE_S = 0.05
END_TIMEOUT_S = 60.0


class Load:
    """Workers against one activity, and the books they keep."""

    def __init__(
        self, rest: RestClient, provider: RestClient, history: History, rng: random.Random
    ) -> None:
        self.rest = rest
        self.provider = provider
        self.history = history
        self.rng = rng
        self.activity_id = ""
        self.foreign: set[str] = set()
        """Batches of the activity that were there before."""
        self.batches: dict[str, Facts] = {}
        self.agreements: set[str] = set()
        """Agreements whose creation was acknowledged."""
        self.confirmed: set[str] = set()
        """Agreements of which the provider's node has told that it has them."""
        self.asks = 0.5
        """How often what got no answer is asked for, and not said again."""
        self.stopped = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *work: Coroutine[Any, Any, None]) -> None:
        self._tasks += [asyncio.create_task(one) for one in work]

    async def stop(self) -> None:
        """Let every worker come to the end of what it is at; raises what one of them raised."""
        self.stopped.set()
        async with asyncio.timeout(END_TIMEOUT_S):
            await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def raise_failure(self) -> None:
        """Raise what a worker died of."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def pause(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(least_s, most_s))

    # ---- batches -------------------------------------------------------------------------------

    def new_batch(self, tag: str, *, chosen: bool, activity_id: str | None = None) -> Facts:
        """Write down a batch of a few short commands, each of which leaves a trace."""
        commands: list[Command] = []
        traces: list[list[str]] = []
        for position in range(self.rng.randint(2, 6)):
            name = f"{tag}.{position}"
            if self.rng.random() < 0.6:
                frame = self.rng.randint(1, FRAMES)
                commands.append(Run("mandel", "zoom", str(frame), str(FRAMES), name))
                traces.append([f"{w} frame {frame} of {FRAMES} {name}" for w in ("begin", "end")])
            else:
                commands.append(Run("mandel", "note", name))
                traces.append([name])
        return self.enter(tag, commands, traces, chosen, activity_id)

    def first_batch(self, tag: str, activity_id: str) -> Facts:
        """Write down the batch that makes an activity ready."""
        commands: list[Command] = [Deploy(), Start(), Run("mandel", "scene", SCENE)]
        commands.append(Run("mandel", "note", tag))
        return self.enter(tag, commands, [[], [], [], [tag]], True, activity_id)

    def enter(
        self,
        tag: str,
        commands: list[Command],
        traces: list[list[str]],
        chosen: bool,
        activity_id: str | None,
    ) -> Facts:
        """Write a batch down, with the lines that each command leaves in the ledger."""
        batch_id = self.rng.randbytes(16).hex() if chosen else None
        facts = Facts(tag, traces, encode(commands), activity_id or self.activity_id, batch_id)
        self.batches[tag] = facts
        return facts

    async def batcher(self, who: str, *, pause_s: float) -> None:
        """Send batch after batch, each followed to its end or to the truth about it."""
        number = 0
        while not self.stopped.is_set():
            number += 1
            facts = self.new_batch(f"{who}-{number}", chosen=self.rng.random() < 0.7)
            await self.submit(who, facts)
            if facts.told == "accepted":
                await self.follow(who, facts)
            await self.pause(0.0, pause_s)

    async def submit(self, who: str, facts: Facts) -> None:
        """POST a batch; when no answer came, ask for it or say it again under its id."""
        await self.send(who, facts)
        while facts.batch_id is not None and facts.told not in SETTLED:
            if self.stopped.is_set() and facts.told is None:
                return
            await asyncio.sleep(AWAY_PAUSE_S)
            if self.rng.random() < self.asks:
                await self.read_list(who, facts.activity_id)
            else:
                await self.send(who, facts)

    async def send(self, who: str, facts: Facts) -> Call:
        post = self.rest.activity.exec(
            facts.activity_id, facts.text, batch_id=facts.batch_id, timeout_s=EXEC_TIMEOUT_S
        )
        call = await self.history.call(who, "exec", post, tag=facts.tag, batch=facts.batch_id)
        if call.ok:
            self.history.acknowledge(facts, call)
        elif call.code in ("batch-never", "batch-refused"):
            self.history.tell_state(facts, call.code.removeprefix("batch-"), call)
        return call

    async def follow(self, who: str, facts: Facts) -> None:
        """Poll until the batch has ended."""
        while not self.stopped.is_set():
            call = await self.read_results(who, facts, timeout_s=self.rng.choice((0.0, 0.5, 2.0)))
            if call.ok and call.answer and call.answer[-1].is_batch_finished:
                return
            await asyncio.sleep(AWAY_PAUSE_S)

    # ---- reads ---------------------------------------------------------------------------------

    async def read_results(
        self, who: str, facts: Facts, *, timeout_s: float, index: int | None = None
    ) -> Call:
        assert facts.batch_id is not None
        accepted = facts.told == "accepted"
        poll = self.rest.activity.results(
            facts.activity_id, facts.batch_id, timeout_s=timeout_s, command_index=index
        )
        call = await self.history.call(who, "results", poll, tag=facts.tag, index=index)
        if call.ok:
            if call.answer or accepted:
                self.history.tell_results(facts, call, whole=index is None)
        elif accepted and call.status and not (call.status == 408 and index is not None):
            self.history.wrong(f"the results of an accepted batch: {call}")
        return call

    async def read_list(self, who: str, activity_id: str) -> dict[str, str] | None:
        """Read the list of batches; everything acknowledged before is in it."""
        due = [
            facts
            for facts in self.batches.values()
            if facts.acknowledged and facts.activity_id == activity_id
        ]
        path = f"/activity-api/v1/activity/{activity_id}/exec"
        read = self.rest.transport.read(list[dict[str, Any]], path)
        call = await self.history.call(who, "batches", read)
        if not call.ok:
            if call.status:
                self.history.wrong(f"the list of batches: {call}")
            return None
        listed = {entry["batchId"]: entry["state"] for entry in call.answer}
        for facts in due:
            if facts.batch_id not in listed:
                self.history.wrong(f"{facts.tag}: acknowledged, and not in the list")
        self._learn_ids(activity_id, call.answer)
        for facts in self.batches.values():
            if facts.batch_id in listed:
                self.history.tell_state(facts, listed[facts.batch_id], call)
        return listed

    def _learn_ids(self, activity_id: str, entries: list[dict[str, Any]]) -> None:
        """Recognise by its script a batch whose id the node chose and never told."""
        named = self.foreign | {facts.batch_id for facts in self.batches.values() if facts.batch_id}
        nameless = [
            facts
            for facts in self.batches.values()
            if facts.batch_id is None and facts.activity_id == activity_id
        ]
        for entry in entries:
            if entry["batchId"] in named:
                continue
            script = str(entry["script"])
            owner = next((facts for facts in nameless if f"'{facts.tag}.0'" in script), None)
            if owner is None:
                self.history.wrong(f"a batch that nobody sent: {entry}")
            elif owner.batch_id is not None:
                self.history.wrong(f"{owner.tag}: sent once and listed twice")
            else:
                owner.batch_id = entry["batchId"]

    async def read_agreements(self, who: str) -> None:
        """Read both sides' lists; everything acknowledged before is in them."""
        await self._read_agreements(who, self.rest, set(self.agreements))
        await self._read_agreements(who, self.provider, set(self.confirmed))

    async def _read_agreements(self, who: str, node: RestClient, due: set[str]) -> None:
        call = await self.history.call(who, "agreements", node.market.agreements.find())
        if call.ok:
            missing = due - {entry.id for entry in call.answer}
            if missing:
                self.history.wrong(f"acknowledged agreements are not listed: {missing}")
        elif call.status:
            self.history.wrong(f"the list of agreements: {call}")

    async def reader(self, who: str) -> None:
        """Ask at random for what programs ask for."""
        activity = self.rest.activity
        while not self.stopped.is_set():
            await self.pause(0.02, 0.2)
            known = [f for f in self.batches.values() if f.told == "accepted" and f.batch_id]
            draw = self.rng.random()
            if known and draw < 0.5:
                facts = self.rng.choice(known[-5:] if draw < 0.35 else known)
                index = self.rng.choice((None, None, 0))
                wait_s = self.rng.choice((0.0, 1.0))
                await self.read_results(who, facts, timeout_s=wait_s, index=index)
            elif draw < 0.65:
                await self.read_list(who, self.activity_id)
            elif draw < 0.8:
                await self.read_agreements(who)
            elif draw < 0.9:
                await self.history.call(who, "state", activity.state(self.activity_id, timeout_s=1))
            else:
                await self.history.call(who, "usage", activity.usage(self.activity_id, timeout_s=1))

    async def until(
        self, who: str, op: str, ask: Callable[[], Awaitable[Any]], *, within_s: float = 30.0
    ) -> Call:
        """Make a harmless call again and again until it is answered with something final."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            call = await self.history.call(who, op, ask())
            refused = 400 <= call.status < 500 and call.status != 408
            if (
                call.ok
                or refused
                or TOO_LATE in call.text
                or asyncio.get_running_loop().time() > deadline
            ):
                return call
            await asyncio.sleep(AWAY_PAUSE_S)


class EventReader:
    """Follows the agreement events of one node by cursor, through all its deaths."""

    def __init__(self, rest: RestClient, name: str, load: Load) -> None:
        self.rest = rest
        self.name = name
        self.load = load
        self.seen: list[AgreementOperationEvent] = []

    async def run(self) -> None:
        while not self.load.stopped.is_set():
            if not await self.read(1.0):
                await asyncio.sleep(AWAY_PAUSE_S)

    async def read(self, timeout_s: float) -> bool:
        """Read on from the cursor; True when events came."""
        after = self.seen[-1].event_date if self.seen else None
        events = self.rest.market.agreements.events
        call = await self.load.history.call(
            self.name, "events", events(after=after, timeout_s=timeout_s)
        )
        if call.ok:
            self.seen += call.answer
        return bool(call.ok and call.answer)
