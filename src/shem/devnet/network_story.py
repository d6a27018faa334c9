"""GAP-17 scenarios 1.3 and 1.4: the requestor's machine loses its network, then its address.

Every program of the devnet lives on a host of its own (`internet`). One program of the requestor
waits for its batches all along.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shem.devnet.internet import Host, Internet
from shem.devnet.machine_story import MachineStory
from shem.devnet.places import OnHost, Place
from shem.devnet.program import FRAMES
from shem.devnet.running import Event, Running
from shem.devnet.story import results_after

CUT_MIN_S: Final = 8.0
SETTLE_S: Final = 1.0
"""What was on its way at the cut has arrived by then."""
RESULTS_BEFORE_CUT: Final = 3
RESULTS_BEFORE_MOVE: Final = 2
RETURN_MAX_S: Final = 15.0
"""From the network's return to the next result; a keep-alive would notice later than that."""
CUT, MOVE = "1.3 the network is gone", "1.4 another address"
CHAPTERS: Final = {
    CUT: "a program sits it out that its machine is cut off",
    MOVE: "the address changes under a running daemon",
}
"""What each shows."""
CUT_TAG, MOVE_TAG = "cut", "move"


@dataclass(slots=True)
class NetworkStory(MachineStory):
    """The story on hosts of an internet; `requestor` is where the requestor's programs live."""

    internet: Internet = field(kw_only=True)
    requestor: Host = field(kw_only=True)

    async def network_outage(self) -> None:
        """Scenario 1.3: the machine is cut off the network while a program waits for a batch."""
        say, clock = self.telling, self.net.world.clock
        self.begin(CUT, "The requestor's machine loses its network")
        say.step("a program attaches and waits for a batch of frames, whatever happens")
        program = self.waiting = await self.follow(CUT_TAG, MOVE_TAG)
        batch_id = await self.submitted(program, CUT_TAG)
        await program.until_results(RESULTS_BEFORE_CUT)
        self.internet.cut(self.requestor)
        cut_ns, cut_at = clock.wall_ns(), clock.monotonic()
        say.blow(f"the link of the requestor's machine ({self.requestor.address}) is cut")
        await clock.sleep(SETTLE_S)
        read = len(program.results(batch_id))
        await self.until_more_frames(CUT_TAG, CUT_MIN_S)
        heard = len(program.results(batch_id)) - read
        cut_s, healed_ns = clock.monotonic() - cut_at, clock.wall_ns()
        self.internet.heal(self.requestor)
        say.step(f"the link is back after {cut_s:.1f} s")
        seen = f"{read} of {FRAMES} results read; {heard} more in {cut_s:.1f} s"
        self.check("it is cut off while its batch runs", seen, read < FRAMES and heard == 0)
        back_s = await self._next_result(program, batch_id, lambda found: len(found) > read)
        seen = f"next result {back_s:.1f} s after the link was back"
        self.check("the waiting program goes on by itself", seen, back_s < RETURN_MAX_S)
        await self.ask_service()
        await self._check_followed(program, batch_id, CUT_TAG)
        results = program.results(batch_id)
        meanwhile = results_after(results, cut_ns) - results_after(results, healed_ns)
        seen = f"{meanwhile} frames ended in those {cut_s:.1f} s"
        self.check("the provider worked on meanwhile", seen, meanwhile > 0)

    async def address_change(self) -> None:
        """Scenario 1.4: the address changes under the running daemon."""
        assert self.waiting is not None, "the program of 1.3 waits on"
        program, clock = self.waiting, self.net.world.clock
        self.begin(MOVE, "The requestor's machine gets another address")
        batch_id = await self.submitted(program, MOVE_TAG)
        await self._next_result(program, batch_id, lambda found: len(found) >= RESULTS_BEFORE_MOVE)
        before, moved_ns = self.requestor.address, clock.wall_ns()
        after = self.requestor.move()
        self.telling.blow(f"{before} is {after} from now on; nobody is told")
        back_s = await self._next_result(
            program, batch_id, lambda found: results_after(found, moved_ns) > 0
        )
        seen = f"next result {back_s:.1f} s after the change"
        self.check("daemon and waiting program go on by themselves", seen, back_s < RETURN_MAX_S)
        await self.ask_service()
        await self._check_followed(program, batch_id, MOVE_TAG)

    async def another_place(self) -> Place:
        self.internet.cut(self.requestor)
        self.requestor = self.internet.host("new")
        return OnHost(self.requestor)

    async def _next_result(
        self, program: Running, batch_id: str, found: Callable[[list[Event]], bool]
    ) -> float:
        """Wait for results of a batch; return the seconds that took."""
        clock = self.net.world.clock
        started = clock.monotonic()
        await program.until(lambda _: found(program.results(batch_id)), "the next result")
        return clock.monotonic() - started

    async def _check_followed(self, program: Running, batch_id: str, tag: str) -> None:
        """Wait until the program has read the whole batch, and the ledger after it."""
        end = f"end frame {FRAMES} of {FRAMES} {tag}"
        await program.until(
            lambda events: any(e["event"] == "ledger" and end in e["stdout"] for e in events),
            f"the end of its batch {tag!r}",
        )
        self.check_batch(program, batch_id, "all results of the batch, in order, once")
        self.check_ledger(program, tag, "each frame was executed exactly once")
