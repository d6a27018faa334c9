"""GAP-17 scenario 1.4, the hardest case: the requestor's machine is lost, with all its data.

On the new machine there is nothing but the identity's key and two tickets.
"""

from dataclasses import dataclass
from typing import Final

from shem.devnet.places import Loopback, Place
from shem.devnet.running import Event, Running
from shem.devnet.story import Story, results_after

LOSS: Final = "1.4 a new machine"
LOSS_TAG: Final = "loss"
FRAMES_BEFORE_LOSS: Final = 1


@dataclass(slots=True)
class MachineStory(Story):
    """The story with its last blow; on loopback a new machine is one with new directories."""

    waiting: Running | None = None
    """A program that follows its batches one after the other, and then leaves one more."""

    async def machine_loss(self) -> None:
        """Scenario 1.4: the machine is lost, and a new one has the key and tickets alone."""
        self.begin(LOSS, "The requestor's machine is lost for good")
        program = self.waiting or await self.follow()
        batch_id = await self.submitted(program, LOSS_TAG)
        await program.until_event("left")
        await self.until_more_frames(LOSS_TAG, 0.0, FRAMES_BEFORE_LOSS)
        await self.net.requestor.kill()
        place = await self.another_place()
        lost_ns = self.net.world.clock.wall_ns()
        self.telling.blow("the machine is gone, with its data; the key and two tickets are left")
        ready_s = await self.net.new_machine(place)
        where = f"a new machine at {place.address}"
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

    async def another_place(self) -> Place:
        """Leave the lost machine behind; return where the new one is."""
        return Loopback()

    async def follow(self, *tags: str) -> Running:
        """Start a program that waits for a batch for each tag, then leaves one with a ticket."""
        leave = ("--leave", LOSS_TAG, "--ticket", str(self.batch_ticket))
        return await self.program("follow", self.activity_id, *tags, *leave)

    async def submitted(self, program: Running, tag: str) -> str:
        """Wait until the program submits the batch of a tag; return the batch's id."""

        def found(events: list[Event]) -> bool:
            return any(e["event"] == "submitted" and e["tag"] == tag for e in events)

        await program.until(found, f"its batch {tag!r}")
        batch_id: str = program.last("submitted")["batch"]
        return batch_id
