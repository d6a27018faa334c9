"""The requestor's program of the demo as a process that runs: what it says, line by line."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shem.devnet.compose import Devnet
from shem.devnet.processes import POLL_S, Child, DevnetError

STEP_TIMEOUT_S: Final = 60.0
"""How long a program may take to come to the next thing it was to do."""
LAST_WORDS_CHARS: Final = 1_000
Event = dict[str, Any]


@dataclass(slots=True)
class Running:
    """A requestor's program as it runs: its events so far, read from its output."""

    net: Devnet
    child: Child
    heard: Callable[[Event], None]
    """Told of every event once."""
    events: list[Event] = field(default_factory=list)
    _read_chars: int = 0

    @classmethod
    async def start(
        cls, net: Devnet, name: str, arguments: Sequence[str], heard: Callable[[Event], None]
    ) -> "Running":
        child = await Child.start(
            net.world,
            name,
            [*net.requestor.enter, sys.executable, "-m", "shem.devnet.program", *arguments],
            cwd=net.directory,
            env=net.program_env(),
            log=net.directory / f"{name}.log",
        )
        return cls(net, child, heard)

    async def until(self, found: Callable[[list[Event]], bool], what: str) -> None:
        """Wait until the events hold what is wanted; DevnetError when the program ends first."""
        clock = self.net.world.clock
        deadline = clock.monotonic() + STEP_TIMEOUT_S
        while True:
            alive = self.child.alive
            self._read()
            self._raise_failure()
            if found(self.events):
                return
            self.net.check()
            if not alive:
                raise DevnetError(f"the program ended before {what}: {self._last_words()}")
            if clock.monotonic() > deadline:
                raise DevnetError(f"the program did not come to {what} in {STEP_TIMEOUT_S:g} s")
            await clock.sleep(POLL_S)

    async def until_event(self, name: str) -> Event:
        await self.until(lambda events: any(e["event"] == name for e in events), repr(name))
        return self.last(name)

    async def until_results(self, count: int) -> None:
        await self.until(
            lambda events: sum(e["event"] == "result" for e in events) >= count,
            f"{count} results",
        )

    def last(self, name: str) -> Event:
        return [e for e in self.events if e["event"] == name][-1]

    def results(self, batch_id: str) -> list[Event]:
        """Return the results of a batch that it has told until now."""
        self._read()
        return [e for e in self.events if e["event"] == "result" and e["batch"] == batch_id]

    async def kill(self) -> None:
        """SIGKILL, then take note of what it had still managed to say."""
        await self.child.kill()
        self._read()

    def _read(self) -> None:
        text = self.child.log.read_text(errors="replace")
        complete = text[self._read_chars : text.rfind("\n") + 1]
        self._read_chars += len(complete)
        for line in complete.splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                self.events.append(event)
                self.heard(event)

    def _raise_failure(self) -> None:
        for event in self.events:
            if event["event"] == "failed":
                raise DevnetError(f"the program failed: {event['error']}: {event['message']}")

    def _last_words(self) -> str:
        said = self.child.log.read_text(errors="replace").strip()
        return said.rpartition("\n")[2][-LAST_WORDS_CHARS:] or "it said nothing"
