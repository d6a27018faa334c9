"""GAP-17 scenarios 1.3 and 1.4: the requestor's machine loses its network, its address, itself.

Every program of the devnet lives on a host of its own (`internet`). One program of the requestor
waits for its batches all along; on the new machine at the end there is nothing but the identity's
key and two tickets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from shem.devnet.internet import Host, Internet
from shem.devnet.places import OnHost
from shem.devnet.program import FRAMES
from shem.devnet.running import Event, Running
from shem.devnet.story import Story, results_after

CUT_MIN_S: Final = 8.0
SETTLE_S: Final = 1.0
"""What was on its way at the cut has arrived by then."""
RESULTS_BEFORE_CUT: Final = 3
RESULTS_BEFORE_MOVE: Final = 2
FRAMES_BEFORE_LOSS: Final = 1
RETURN_MAX_S: Final = 15.0
"""From the network's return to the next result; a keep-alive would notice later than that."""
CUT, MOVE, LOSS = "1.3 the network is gone", "1.4 another address", "1.4 a new machine"
CHAPTERS: Final = {
    CUT: "a program sits it out that its machine is cut off",
    MOVE: "the address changes under a running daemon",
    LOSS: "a new machine with the key and a ticket takes control",
}
"""What each shows."""
CUT_TAG, MOVE_TAG, LOSS_TAG = "cut", "move", "loss"


@dataclass(slots=True)
class NetworkStory(Story):
    """The story on hosts of an internet; `requestor` is where the requestor's programs live."""

    internet: Internet = field(kw_only=True)
    requestor: Host = field(kw_only=True)
    _waiting: Running | None = None

    async def network_outage(self) -> None:
        """Scenario 1.3: the machine is cut off the network while a program waits for a batch."""
        say, clock = self.telling, self.net.world.clock
        self.begin(CUT, "The requestor's machine loses its network")
        say.step("a program attaches and waits for a batch of frames, whatever happens")
        ticket = str(self.batch_ticket)
        program = self._waiting = await self.program(
            *("follow", self.activity_id, CUT_TAG, MOVE_TAG, "--leave", LOSS_TAG),
            *("--ticket", ticket),
        )
        batch_id = await self._submitted(program, CUT_TAG)
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
        assert self._waiting is not None, "the program of 1.3 waits on"
        program, clock = self._waiting, self.net.world.clock
        self.begin(MOVE, "The requestor's machine gets another address")
        batch_id = await self._submitted(program, MOVE_TAG)
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

    async def machine_loss(self) -> None:
        """Scenario 1.4 again: the machine is lost, and a new one has the key and tickets alone."""
        assert self._waiting is not None, "the program of 1.3 leaves the batch"
        self.begin(LOSS, "The requestor's machine is lost for good")
        batch_id = await self._submitted(self._waiting, LOSS_TAG)
        await self._waiting.until_event("left")
        await self.until_more_frames(LOSS_TAG, 0.0, FRAMES_BEFORE_LOSS)
        await self.net.requestor.kill()
        self.internet.cut(self.requestor)
        lost_ns = self.net.world.clock.wall_ns()
        self.telling.blow("the machine is gone, with its data; the key and two tickets are left")
        self.requestor = self.internet.host("new")
        ready_s = await self.net.new_machine(OnHost(self.requestor))
        where = f"a new machine at {self.requestor.address}"
        self.telling.step(f"{where}: its node is ready after {ready_s:.1f} s")
        promised = "key and ticket are enough to take control"
        program = await self.attach(promised, named=str(self.batch_ticket))
        self.check_batch(program, batch_id, "all results of the batch, in order, once")
        alone = results_after(program.results(batch_id), lost_ns)
        seen = f"{alone} frames ended after the loss"
        self.check("the batch ran on without its requestor", seen, alone > 0)
        self.check_another(program, "the program runs another command")
        self.check_ledger(program, LOSS_TAG, "each frame was executed exactly once")
        if self.service is not None:
            self.service.by_name = False
        await self.ask_service()

    async def _submitted(self, program: Running, tag: str) -> str:
        """Wait until the program submits the batch of a tag; return the batch's id."""

        def found(events: list[Event]) -> bool:
            return any(e["event"] == "submitted" and e["tag"] == tag for e in events)

        await program.until(found, f"its batch {tag!r}")
        batch_id: str = program.last("submitted")["batch"]
        return batch_id

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
