"""GAP-17 scenarios 1.1 and 1.2, run for real and measured; shared by the demo and the tests.

Each scenario returns what was promised beside what was seen. It stops at once when something it
needs did not happen (`DevnetError`); a promise that was merely not kept is a row of the table.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Protocol

from shem.devnet.compose import Devnet
from shem.devnet.daemons import Node
from shem.devnet.processes import POLL_S, DevnetError
from shem.devnet.program import FIRST_TAG, FRAMES
from shem.devnet.running import STEP_TIMEOUT_S, Event, Running
from shem.kernel import times

RESULTS_BEFORE_KILL: Final = 3
"""The program is killed after it has read so many results of its long batch."""
RESULTS_BEFORE_DAEMON_KILL: Final = 2
DOWNTIME_MIN_S: Final = 2.0
FRAMES_MEANWHILE: Final = 3
"""The requestor's daemon stays dead until the provider has ended so many more frames."""
END_TIMEOUT_S: Final = 15.0
"""For the provider to learn of the agreement's end, and for the ExeUnit to end."""
SECOND_TAG: Final = "second"


class Telling(Protocol):
    """Where the story goes: a terminal, or nowhere."""

    def chapter(self, title: str) -> None: ...
    def step(self, text: str) -> None: ...
    def output(self, text: str) -> None: ...
    def blow(self, text: str) -> None: ...
    def check(self, check: "Check") -> None: ...


class Silence:
    """Tells nobody."""

    def chapter(self, title: str) -> None:
        del title

    def step(self, text: str) -> None:
        del text

    def output(self, text: str) -> None:
        del text

    def blow(self, text: str) -> None:
        del text

    def check(self, check: "Check") -> None:
        del check


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and what was seen of it."""

    promised: str
    seen: str
    kept: bool


@dataclass(slots=True)
class Story:
    """The scenarios on one devnet, and the checks so far."""

    net: Devnet
    telling: Telling = field(default_factory=Silence)
    checks: list[Check] = field(default_factory=list)
    activity_id: str = ""
    agreement_id: str = ""
    _told_batch_id: str = ""
    """The batch whose results are worth telling."""
    _left_batch_id: str = ""
    _programs: int = 0

    async def agent_outage(self) -> None:
        """Scenario 1.1: the requestor's program dies while its batch runs."""
        say = self.telling
        say.chapter("The requestor's program is killed (GAP-17 scenario 1.1)")
        first = await self.rent()
        batch_id = first.last("submitted")["batch"]
        await first.until_results(RESULTS_BEFORE_KILL)
        await first.kill()
        killed_ns = self.net.world.clock.wall_ns()
        read = len(first.results(batch_id))
        say.blow(f"SIGKILL to the program (pid {first.child.pid}) after {read} of {FRAMES} results")
        seen = f"{read} of {FRAMES} results read"
        self._check("the program is killed while its batch runs", seen, read < FRAMES)

        say.step("a new program attaches, knowing the activity id and nothing else")
        promised = "a new program attaches by activity id alone"
        second = await self._attach(promised, "--zoom", SECOND_TAG)
        self._check_batch(second, batch_id, "all results of the batch, in order, once")
        after = _results_after(second.results(batch_id), killed_ns)
        seen = f"{after} frames ended after the kill"
        self._check("the batch ran on without the program", seen, after > 0)
        self._left_batch_id = second.last("submitted")["batch"]
        self._check_another(second, "the new program runs another command")
        self._check_ledger(second, FIRST_TAG, "each frame was executed exactly once")

    async def daemon_outage(self) -> None:
        """Scenario 1.2: the requestor's daemon dies while a batch runs."""
        say = self.telling
        say.chapter("The requestor's daemon is killed (GAP-17 scenario 1.2)")
        batch_id, tag = await self._leave_a_batch_running()
        await self._until_frames(batch_id, RESULTS_BEFORE_DAEMON_KILL)
        pid = self.net.processes()["requestor"].pid
        await self.net.requestor.kill()
        killed_ns = self.net.world.clock.wall_ns()
        say.blow(f"SIGKILL to the requestor's daemon (pid {pid}); the provider works on")
        await self._stay_dead(tag)
        back_ns = self.net.world.clock.wall_ns()
        restart_s = await self.net.requestor.start()
        say.step(f"the daemon is back and has found its relay again after {restart_s:.1f} s")
        promised = "a program attaches through the restarted daemon"
        third = await self._attach(promised, "--terminate", "the demo is over")
        self._check_batch(third, batch_id, "all results of the batch, in order, once")
        results = third.results(batch_id)
        meanwhile = _results_after(results, killed_ns) - _results_after(results, back_ns)
        self._check(
            "the provider worked on while the daemon was dead",
            f"{meanwhile} frames ended in those {(back_ns - killed_ns) / times.NS_PER_S:.1f} s",
            meanwhile > 0,
        )
        self._check_another(third, "the program runs another command")
        self._check_ledger(third, tag, "each frame was executed exactly once")
        await self._check_end(third)

    async def rent(self) -> Running:
        """Start the renting program and follow it until its long batch is submitted."""
        say = self.telling
        package = self.net.package
        say.step("a program looks for a provider, negotiates, deploys and starts a WASI program")
        started = self.net.world.clock.monotonic()
        program = await self._program("rent", "--url", package.url, "--hash", package.hash)
        rented = await program.until_event("rented")
        seconds = self.net.world.clock.monotonic() - started
        self.activity_id, self.agreement_id = rented["activity"], rented["agreement"]
        say.step(f"agreement {self.agreement_id[:12]}… with {rented['provider']}")
        say.step(f"activity {self.activity_id} is ready after {seconds:.1f} s")
        states = [
            await self._agreement_at(node) for node in (self.net.requestor, self.net.provider)
        ]
        seen = f"requestor: {states[0]}, provider: {states[1]}; running after {seconds:.1f} s"
        self._check("rented by real negotiation", seen, states == ["Approved"] * 2)
        units = len(self.net.exe_units())
        self._check("a process of its own runs the activity", f"{units} ExeUnit", units == 1)
        await program.until_event("submitted")
        outputs = [event["stdout"] for event in program.events if event["event"] == "output"]
        rows = len(outputs[0].splitlines())
        self._check("the payload's real output", f"a picture of {rows} rows", rows == 24)
        return program

    async def _leave_a_batch_running(self) -> tuple[str, str]:
        """Return a long batch that runs with no program waiting for it, and its tag."""
        if not self.activity_id:
            program = await self.rent()
            await program.kill()
            return program.last("submitted")["batch"], FIRST_TAG
        self.telling.step(f"the program has left another batch of {FRAMES} frames running")
        return self._left_batch_id, SECOND_TAG

    async def _until_frames(self, batch_id: str, count: int) -> None:
        """Wait until so many frames of a batch have results."""
        deadline = self.net.world.clock.monotonic() + STEP_TIMEOUT_S
        async with self.net.requestor.rest() as rest:
            poll = rest.activity.results
            while len(await poll(self.activity_id, batch_id, timeout_s=0.2)) < count:
                if self.net.world.clock.monotonic() > deadline:
                    raise DevnetError(f"batch {batch_id} has no {count} results in time")

    async def _stay_dead(self, tag: str) -> None:
        """Wait, with the requestor's daemon dead, for progress seen on the provider's disk."""
        clock = self.net.world.clock
        started, before = clock.monotonic(), self._frames_on_disk(tag)
        while True:
            waited_s = clock.monotonic() - started
            ended = self._frames_on_disk(tag) - before
            if waited_s >= DOWNTIME_MIN_S and ended >= FRAMES_MEANWHILE:
                return
            if waited_s > STEP_TIMEOUT_S:
                raise DevnetError("the provider ended no frames while the daemon was dead")
            await clock.sleep(POLL_S)

    def _frames_on_disk(self, tag: str) -> int:
        """Count the frames of a batch that the ledger in the provider's work directory ends."""
        ledgers = (self.net.directory / "agent").rglob("ledger.txt")
        lines = [line for path in ledgers for line in path.read_text().splitlines()]
        return sum(line.startswith("end ") and line.endswith(f" {tag}") for line in lines)

    async def _attach(self, promised: str, *arguments: str) -> Running:
        """Run an attaching program to its end."""
        program = await self._program("attach", self.activity_id, *arguments)
        attached = await program.until_event("attached")
        state = f"{'alive' if attached['alive'] else 'not alive'}, {attached['state']}"
        seen = f"{state}, {len(attached['batches'])} batches known"
        self._check(promised, seen, attached["alive"])
        await program.until_event("left")
        return program

    def _hear(self, event: Event) -> None:
        """Tell what a program has just said."""
        if event["event"] == "result" and event["batch"] == self._told_batch_id:
            self.telling.output(event["stdout"] or str(event["message"]))
        elif event["event"] == "output":
            self.telling.output(event["stdout"])
        elif event["event"] == "submitted":
            self._told_batch_id = event["batch"]
            what = f"a batch of {event['commands']} frames"
            self.telling.step(f"the program submits {what}: {event['batch']}")

    async def _program(self, *arguments: str) -> Running:
        self._programs += 1
        name = f"program-{self._programs}"
        return await Running.start(self.net, name, arguments, self._hear)

    def _check(self, promised: str, seen: str, kept: bool) -> None:
        check = Check(promised, seen, kept)
        self.checks.append(check)
        self.telling.check(check)

    def _check_batch(self, program: Running, batch_id: str, promised: str) -> None:
        results = program.results(batch_id)
        indices = [event["index"] for event in results]
        good = sum(event["ok"] for event in results)
        kept = indices == list(range(FRAMES)) and good == FRAMES
        self._check(promised, f"{good} of {FRAMES} frames", kept)

    def _check_another(self, program: Running, promised: str) -> None:
        output = program.last("output")["stdout"]
        rows = len(output.splitlines())
        self._check(promised, f"a picture of {rows} rows", rows == 12)

    def _check_ledger(self, program: Running, tag: str, promised: str) -> None:
        lines = Counter(program.last("ledger")["stdout"].splitlines())
        counts = [
            lines[f"{edge} frame {n} of {FRAMES} {tag}"]
            for n in range(1, FRAMES + 1)
            for edge in ("begin", "end")
        ]
        once = sum(count == 1 for count in counts) // 2
        seen = f"ledger: {once} of {FRAMES} begun and ended once"
        self._check(promised, seen, all(count == 1 for count in counts))

    async def _check_end(self, program: Running) -> None:
        terminated = program.last("terminated")
        provider = await self._provider_state_after_end()
        seen = f"requestor: {terminated['state']}, provider: {provider}"
        kept = terminated["state"] == provider == "Terminated"
        self._check("the program terminates the agreement", seen, kept)
        left = await self._exe_units_after_end()
        self._check("the ExeUnit ends with its agreement", f"{left} ExeUnits left", left == 0)

    async def _provider_state_after_end(self) -> str:
        """Return the agreement's state at the provider, once it has ended there or time is up."""
        clock = self.net.world.clock
        deadline = clock.monotonic() + END_TIMEOUT_S
        while True:
            state = await self._agreement_at(self.net.provider)
            if state == "Terminated" or clock.monotonic() > deadline:
                return state
            await clock.sleep(POLL_S)

    async def _agreement_at(self, node: Node) -> str:
        async with node.rest() as rest:
            return (await rest.market.agreements.get(self.agreement_id)).state

    async def _exe_units_after_end(self) -> int:
        """Return how many ExeUnits are left, once there are none or time is up."""
        clock = self.net.world.clock
        deadline = clock.monotonic() + END_TIMEOUT_S
        while (left := len(self.net.exe_units())) and clock.monotonic() < deadline:
            await clock.sleep(POLL_S)
        return left


def _results_after(results: list[Event], moment_ns: int) -> int:
    return sum(times.parse(event["at"]) > moment_ns for event in results)
