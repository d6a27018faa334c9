"""GAP-17 scenarios 1.1 and 1.2 and the end, run for real and measured; shared by demo and tests.

Each scenario returns what was promised beside what was seen. It stops at once when something it
needs did not happen (`DevnetError`); a promise that was merely not kept is a row of the table.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shem.devnet.compose import Devnet
from shem.devnet.daemons import Node
from shem.devnet.processes import POLL_S, DevnetError
from shem.devnet.program import FIRST_TAG, FRAMES
from shem.devnet.promises import Check, Silence, Telling
from shem.devnet.running import STEP_TIMEOUT_S, Event, Running
from shem.devnet.served import Served
from shem.kernel import times

RESULTS_BEFORE_KILL: Final = 3
"""The program is killed after it has read so many results of its long batch."""
RESULTS_BEFORE_DAEMON_KILL: Final = 2
DOWNTIME_MIN_S: Final = 2.0
FRAMES_MEANWHILE: Final = 3
"""An outage lasts until the provider has ended so many more frames."""
END_TIMEOUT_S: Final = 15.0
"""For the provider to learn of the agreement's end, and for the ExeUnit to end."""
SECOND_TAG: Final = "second"
THE_END: Final = "the end"


@dataclass(slots=True)
class Story:
    """The scenarios on one devnet, and the checks so far."""

    net: Devnet
    telling: Telling = field(default_factory=Silence)
    checks: list[Check] = field(default_factory=list)
    activity_id: str = ""
    agreement_ids: list[str] = field(default_factory=list)
    service: Served | None = None
    chapter: str = ""
    _told_batch_id: str = ""
    """The batch whose results are worth telling."""
    _left_batch_id: str = ""
    _programs: int = 0

    async def agent_outage(self) -> None:
        """Scenario 1.1: the requestor's program dies while its batch runs."""
        say = self.telling
        self.begin("1.1 the program is killed", "The requestor's program is killed")
        first = await self.rent()
        batch_id = first.last("submitted")["batch"]
        await first.until_results(RESULTS_BEFORE_KILL)
        await first.kill()
        killed_ns = self.net.world.clock.wall_ns()
        read = len(first.results(batch_id))
        say.blow(f"SIGKILL to the program (pid {first.child.pid}) after {read} of {FRAMES} results")
        seen = f"{read} of {FRAMES} results read"
        self.check("the program is killed while its batch runs", seen, read < FRAMES)

        say.step("a new program attaches, knowing the activity id and nothing else")
        promised = "a new program attaches by activity id alone"
        second = await self.attach(promised, "--zoom", SECOND_TAG)
        self.check_batch(second, batch_id, "all results of the batch, in order, once")
        after = results_after(second.results(batch_id), killed_ns)
        seen = f"{after} frames ended after the kill"
        self.check("the batch ran on without the program", seen, after > 0)
        self._left_batch_id = second.last("submitted")["batch"]
        self.check_another(second, "the new program runs another command")
        self.check_ledger(second, FIRST_TAG, "each frame was executed exactly once")

    async def daemon_outage(self) -> None:
        """Scenario 1.2: the requestor's daemon dies while a batch runs."""
        say = self.telling
        self.begin("1.2 the daemon is killed", "The requestor's daemon is killed")
        batch_id, tag = await self._leave_a_batch_running()
        await self.until_frames(batch_id, RESULTS_BEFORE_DAEMON_KILL)
        pid = self.net.processes()["requestor"].pid
        await self.net.requestor.kill()
        killed_ns = self.net.world.clock.wall_ns()
        say.blow(f"SIGKILL to the requestor's daemon (pid {pid}); the provider works on")
        await self.until_more_frames(tag, DOWNTIME_MIN_S)
        back_ns = self.net.world.clock.wall_ns()
        restart_s = await self.net.requestor.start()
        say.step(f"the daemon is back and has found its relay again after {restart_s:.1f} s")
        promised = "a program attaches through the restarted daemon"
        third = await self.attach(promised)
        self.check_batch(third, batch_id, "all results of the batch, in order, once")
        results = third.results(batch_id)
        meanwhile = results_after(results, killed_ns) - results_after(results, back_ns)
        self.check(
            "the provider worked on while the daemon was dead",
            f"{meanwhile} frames ended in those {(back_ns - killed_ns) / times.NS_PER_S:.1f} s",
            meanwhile > 0,
        )
        self.check_another(third, "the program runs another command")
        self.check_ledger(third, tag, "each frame was executed exactly once")
        await self.ask_service()

    async def end(self) -> None:
        """Terminate what was rented."""
        self.begin(THE_END, "What was rented is given back")
        names = [self.activity_id] + ([str(self.service.ticket)] if self.service else [])
        program = await self.program("end", *names, "--reason", "the demo is over")
        await program.until(lambda events: len(events) >= len(names), "the end of all of it")
        await self._check_end(program)

    async def serve(self, service: Served) -> None:
        """Bring a service up, which is to outlive everything."""
        self.begin("a service", "A service is rented, and left alone")
        what = "a container with a web server and a clock"
        if service.stands_in_because is not None:
            reason = f"not shown here: {service.stands_in_because}"
            self.check("a container runs by itself", reason, None)
            what = "a WASI program that keeps count"
        self.telling.step(f"a program rents {what}, asks it, and leaves")
        self.service = service
        event = await self.ask_service("the service is up")
        self.agreement_ids.append(event["agreement"])

    async def ask_service(self, promised: str = "") -> Event:
        """Ask the service, if there is one, what became of it meanwhile."""
        if self.service is None:
            return {}
        program = await self.program(*self.service.arguments)
        event = await program.until_event("served")
        self.check(promised or self.service.promise, *self.service.heard(event))
        return event

    def begin(self, chapter: str, title: str) -> None:
        """Begin a chapter; its short name stands beside its promises."""
        self.chapter = chapter
        number = chapter.partition(" ")[0]
        scenario = f" (GAP-17 scenario {number})" if number[0].isdigit() else ""
        self.telling.chapter(title + scenario)

    async def rent(self) -> Running:
        """Start the renting program and follow it until its long batch is submitted."""
        say = self.telling
        package = self.net.package
        say.step("a program looks for a provider, negotiates, deploys and starts a WASI program")
        started, others = self.net.world.clock.monotonic(), len(self.net.exe_units())
        program = await self.program("rent", "--url", package.url, "--hash", package.hash)
        rented = await program.until_event("rented")
        seconds = self.net.world.clock.monotonic() - started
        self.activity_id, agreement_id = rented["activity"], rented["agreement"]
        self.agreement_ids.append(agreement_id)
        say.step(f"agreement {agreement_id[:12]}… with {rented['provider']}")
        say.step(f"activity {self.activity_id} is ready after {seconds:.1f} s")
        states = [
            await self._state(node, agreement_id)
            for node in (self.net.requestor, self.net.provider)
        ]
        seen = f"requestor: {states[0]}, provider: {states[1]}; running after {seconds:.1f} s"
        self.check("rented by real negotiation", seen, states == ["Approved"] * 2)
        units = len(self.net.exe_units()) - others
        self.check("a process of its own runs the activity", f"{units} ExeUnit", units == 1)
        await program.until_event("submitted")
        outputs = [event["stdout"] for event in program.events if event["event"] == "output"]
        rows = len(outputs[0].splitlines())
        self.check("the payload's real output", f"a picture of {rows} rows", rows == 24)
        return program

    async def _leave_a_batch_running(self) -> tuple[str, str]:
        """Return a long batch that runs with no program waiting for it, and its tag."""
        if not self.activity_id:
            program = await self.rent()
            await program.kill()
            return program.last("submitted")["batch"], FIRST_TAG
        self.telling.step(f"the program has left another batch of {FRAMES} frames running")
        return self._left_batch_id, SECOND_TAG

    async def until_frames(self, batch_id: str, count: int) -> None:
        """Wait until so many frames of a batch have results."""
        deadline = self.net.world.clock.monotonic() + STEP_TIMEOUT_S
        async with self.net.requestor.rest() as rest:
            poll = rest.activity.results
            while len(await poll(self.activity_id, batch_id, timeout_s=0.2)) < count:
                if self.net.world.clock.monotonic() > deadline:
                    raise DevnetError(f"batch {batch_id} has no {count} results in time")

    async def until_more_frames(
        self, tag: str, least_s: float, count: int = FRAMES_MEANWHILE
    ) -> None:
        """Wait for so long, and for progress seen on the provider's disk."""
        clock = self.net.world.clock
        started, before = clock.monotonic(), self._frames_on_disk(tag)
        while True:
            waited_s = clock.monotonic() - started
            ended = self._frames_on_disk(tag) - before
            if waited_s >= least_s and ended >= min(count, FRAMES - before):
                return
            if waited_s > STEP_TIMEOUT_S:
                raise DevnetError("the provider ends no frames without its requestor")
            await clock.sleep(POLL_S)

    def _frames_on_disk(self, tag: str) -> int:
        """Count the frames of a batch that the ledger in the provider's work directory ends."""
        ledgers = (self.net.directory / "agent").rglob("ledger.txt")
        lines = [line for path in ledgers for line in path.read_text().splitlines()]
        return sum(line.startswith("end ") and line.endswith(f" {tag}") for line in lines)

    @property
    def batch_ticket(self) -> Path:
        """Where a program that leaves puts its ticket."""
        return self.net.directory / "activity.ticket"

    async def attach(self, promised: str, *arguments: str, named: str = "") -> Running:
        """Run an attaching program to its end; it knows the activity id alone, or a ticket."""
        program = await self.program("attach", named or self.activity_id, *arguments)
        attached = await program.until_event("attached")
        state = f"{'alive' if attached['alive'] else 'not alive'}, {attached['state']}"
        seen = f"{state}, {len(attached['batches'])} batches known"
        self.check(promised, seen, attached["alive"])
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

    async def program(self, *arguments: str) -> Running:
        self._programs += 1
        name = f"program-{self._programs}"
        return await Running.start(self.net, name, arguments, self._hear)

    def check(self, promised: str, seen: str, kept: bool | None) -> None:
        check = Check(promised, seen, kept, self.chapter)
        self.checks.append(check)
        self.telling.check(check)

    def check_batch(self, program: Running, batch_id: str, promised: str) -> None:
        results = program.results(batch_id)
        indices = [event["index"] for event in results]
        good = sum(event["ok"] for event in results)
        kept = indices == list(range(FRAMES)) and good == FRAMES
        self.check(promised, f"{good} of {FRAMES} frames", kept)

    def check_another(self, program: Running, promised: str) -> None:
        output = program.last("output")["stdout"]
        rows = len(output.splitlines())
        self.check(promised, f"a picture of {rows} rows", rows == 12)

    def check_ledger(self, program: Running, tag: str, promised: str) -> None:
        lines = Counter(program.last("ledger")["stdout"].splitlines())
        counts = [
            lines[f"{edge} frame {n} of {FRAMES} {tag}"]
            for n in range(1, FRAMES + 1)
            for edge in ("begin", "end")
        ]
        once = sum(count == 1 for count in counts) // 2
        seen = f"ledger: {once} of {FRAMES} begun and ended once"
        self.check(promised, seen, all(count == 1 for count in counts))

    async def _check_end(self, program: Running) -> None:
        ended = [event["state"] for event in program.events if event["event"] == "terminated"]
        provider = [await self._provider_state_after_end(name) for name in self.agreement_ids]
        seen = f"requestor: {', '.join(ended)}; provider: {', '.join(provider)}"
        kept = {*ended, *provider} == {"Terminated"}
        what = "agreement" if len(self.agreement_ids) == 1 else "agreements"
        self.check(f"a program terminates the {what}", seen, kept)
        left = await self._exe_units_after_end()
        self.check("the ExeUnits end with their agreements", f"{left} ExeUnits left", left == 0)

    async def _provider_state_after_end(self, agreement_id: str) -> str:
        """Return the agreement's state at the provider, once it has ended there or time is up."""
        clock = self.net.world.clock
        deadline = clock.monotonic() + END_TIMEOUT_S
        while True:
            state = await self._state(self.net.provider, agreement_id)
            if state == "Terminated" or clock.monotonic() > deadline:
                return state
            await clock.sleep(POLL_S)

    async def _state(self, node: Node, agreement_id: str) -> str:
        async with node.rest() as rest:
            return (await rest.market.agreements.get(agreement_id)).state

    async def _exe_units_after_end(self) -> int:
        """Return how many ExeUnits are left, once there are none or time is up."""
        clock = self.net.world.clock
        deadline = clock.monotonic() + END_TIMEOUT_S
        while (left := len(self.net.exe_units())) and clock.monotonic() < deadline:
            await clock.sleep(POLL_S)
        return left


def results_after(results: list[Event], moment_ns: int) -> int:
    return sum(times.parse(event["at"]) > moment_ns for event in results)
