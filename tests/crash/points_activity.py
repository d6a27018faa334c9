"""An activity from its creation to its end, by a program that never gives up, and its judgement.

The books are those of the siege (`slice_load`, `slice_verdict`): whatever is acknowledged holds for
ever, and the payload's own ledger says how often each command was executed.
"""

from dataclasses import dataclass, field

from shem.sdk.script import Deploy, Run, Start
from tests.crash.history import Facts
from tests.crash.slice_siege import Siege
from tests.crash.slice_trader import Deal

WHO = "program"
DESTROY_S = 3.0


@dataclass(slots=True)
class Work:
    """One activity with two batches."""

    under: Siege
    deal: Deal
    tag: str
    step: str = ""
    """What is being done now."""
    batches: list[Facts] = field(default_factory=list)

    async def create(self) -> str:
        """Create it, the same one however often it is asked for; returns its id."""
        self.step = "create"
        created = await self.under.trader.create(self.deal)
        assert created.ok, str(created)
        self.deal.activity_id = created.answer
        activity_id: str = created.answer
        return activity_id

    async def use(self) -> None:
        """Send two batches, and follow each to its end."""
        first, second = f"{self.tag}.first", f"{self.tag}.second"
        await self._batch(
            first, [Deploy(), Start(), Run("mandel", "note", first)], [[], [], [first]]
        )
        lines = [f"{second}.{n}" for n in range(2)]
        notes = [Run("mandel", "note", line) for line in lines]
        await self._batch(second, [*notes], [[line] for line in lines])

    async def destroy(self) -> None:
        """End it; what was told of its batches is judged before, and afterwards again."""
        activity_id = self._activity_id
        await self.under.verdict.batches(activity_id, lives=True)
        self.step = "destroy"
        destroy = self.under.load.rest.activity.destroy
        ended = await self.under.load.until(
            WHO, "destroy", lambda: destroy(activity_id, timeout_s=DESTROY_S)
        )
        assert ended.ok, str(ended)

    async def judge(self) -> None:
        """Compare both nodes and the ledger; what is wrong is noted in the history."""
        verdict, activity_id = self.under.verdict, self._activity_id
        await verdict.until_terminated(activity_id, verdict.requestor, verdict.provider)
        for facts in self.batches:
            call = await self.under.load.read_results(WHO, facts, timeout_s=1.0)
            if facts.told == "accepted" and not call.ok:
                verdict.wrong(f"the results of {facts.tag} are gone: {call}")
        await verdict.batches(activity_id, lives=False)
        ours = await verdict.requestor.activity.of_agreement(self.deal.agreement_id)
        theirs = await verdict.provider.activity.of_agreement(self.deal.agreement_id)
        if activity_id not in ours or set(ours) - set(theirs):
            verdict.wrong(f"activities {ours} here, {theirs} there, and {activity_id} is this one")
        for left_over in set(theirs) - set(ours):
            await verdict.until_terminated(left_over, verdict.provider)

    @property
    def _activity_id(self) -> str:
        assert self.deal.activity_id is not None
        return self.deal.activity_id

    async def _batch(
        self, tag: str, commands: list[Deploy | Start | Run], traces: list[list[str]]
    ) -> None:
        load = self.under.load
        facts = load.enter(tag, [*commands], traces, True, self._activity_id)
        self.batches.append(facts)
        self.step = "exec"
        await load.submit(WHO, facts)
        self.step = "results"
        if facts.told == "accepted":
            await load.follow(WHO, facts)
