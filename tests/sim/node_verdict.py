"""What must be true when the storm is over: first that everything comes to an end, then the books.

No batch ran twice, every result that was told was true, what was acknowledged is kept, both sides
agree on how agreements and activities ended, and nobody owes anybody a message.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shem.kernel.errors import ShemError
from shem.kernel.world import World
from shem.rest.client import RestClient
from shem.rest.errors import ApiError
from shem.sdk.agreement import DONE
from shem.store.outbox import Outbox
from tests.sim.node_program import NEVER, BatchNotes, Program
from tests.sim.node_storm import City, Storm, found_city
from tests.sim.node_world import SimNode
from tests.sim.process import run_processes

CONTENT_WITHIN_S = 900.0
AGREED_WITHIN_S = 1_800.0
"""Beyond the end of every agreement."""
LOOK_AGAIN_S = 20.0
NEVER_IN_FORCE = {"Cancelled", "Expired"}
"""What was cancelled here may have lapsed there (docs/adr/0008-…)."""
INTERRUPTED = ("interrupted, outcome unknown", "the command was stopped")


@dataclass
class Outcome:
    """What became of one seed."""

    seed: int
    broken: list[str]
    timeline: list[str]
    figures: Counter[str] = field(default_factory=Counter)


async def live(folder: Path, seed: int) -> City:
    """Found a city, let the storm pass over it, and judge."""
    city = found_city(folder, seed)
    world = city.world
    for victim in city.victims():
        await victim.start()
    storm = Storm(city)
    await storm.blow()
    world.note("storm", "is over")
    city.happened = storm.happened
    await _until_content(city)
    await _until_agreed(city)
    for program in city.programs:
        _judge_batches(city, program)
    _judge_ledger(city)
    for node in (city.requestor, city.provider):
        for crash in node.door.crashes:
            world.wrong(f"{node.name}: a request crashed: {crash}")
    for victim in city.victims():
        assert victim.process is not None
        victim.process.kill()
        await victim.died()
    for unit in city.agent.units.alive():
        unit.process.kill()
        await unit.process.ended.wait()
    city.lived_s = world.clock.monotonic()
    return city


async def _until_content(city: City) -> None:
    clock = city.world.clock
    until_s = clock.monotonic() + CONTENT_WITHIN_S
    while clock.monotonic() < until_s:
        if all(program.notes.done for program in city.programs):
            return
        await clock.sleep(LOOK_AGAIN_S / 4)
    for program in city.programs:
        if not program.notes.done:
            city.world.wrong(f"{program.name} is not content: {program.notes}")


async def _until_agreed(city: City) -> None:
    """Look until nothing is wrong, or for too long."""
    clock = city.world.clock
    until_s = clock.monotonic() + AGREED_WITHIN_S
    while problems := await _disagreements(city):
        if clock.monotonic() >= until_s:
            for problem in problems:
                city.world.wrong(problem)
            return
        await clock.sleep(LOOK_AGAIN_S)


async def _disagreements(city: City) -> list[str]:
    async with city.requestor.rest("judge") as ours, city.provider.rest("judge") as theirs:
        try:
            found = await _agreements(city, ours, theirs)
            for program in city.programs:
                for batch in program.notes.batches.values():
                    found += await _unread(city, batch, ours)
        except ShemError as error:
            return [f"the judge got no answer: {error!r}"]
    found += [f"an ExeUnit is left over: {unit}" for unit in city.agent.units.alive()]
    for node in (city.requestor, city.provider):
        found += [f"{node.name} still owes {row}" for row in await _owed(node)]
    return found


async def _agreements(city: City, ours: RestClient, theirs: RestClient) -> list[str]:
    found: list[str] = []
    mine, its = await _states(ours), await _states(theirs)
    for agreement_id, state in mine.items():
        other = its.pop(agreement_id, None)
        never_sent = other is None and state in ("Proposal", "Cancelled", "Expired")
        lapsed = {state, other} <= NEVER_IN_FORCE  # each side has ended it in its own way
        if state != other and not never_sent and not lapsed:
            found.append(f"agreement {agreement_id}: {state} here, {other} there")
        elif state not in DONE and not never_sent:
            found.append(f"agreement {agreement_id} is still {state}")
        elif other is not None:
            found += await _activities(agreement_id, ours, theirs)
    found += [f"agreement {agreement_id} is known to the provider alone" for agreement_id in its]
    for program in city.programs:
        for activity_id, agreement_id in program.notes.activities.items():
            if agreement_id not in mine:
                found.append(f"agreement {agreement_id} of {activity_id} is gone")
    return found


async def _states(node: RestClient) -> dict[str, str]:
    agreements = node.market.agreements
    entries = await agreements.find()
    return {entry.id: (await agreements.get(entry.id)).state for entry in entries}


async def _activities(agreement_id: str, ours: RestClient, theirs: RestClient) -> list[str]:
    mine = await ours.activity.of_agreement(agreement_id)
    its = await theirs.activity.of_agreement(agreement_id)
    found = [] if set(mine) <= set(its) else [f"activities of {agreement_id}: {mine} and {its}"]
    for activity_id in mine:
        found += await _ended(activity_id, ours, "here")
    for activity_id in its:
        found += await _ended(activity_id, theirs, "there")
    return found


async def _ended(activity_id: str, node: RestClient, where: str) -> list[str]:
    try:
        state = (await node.activity.state(activity_id)).current
    except ApiError as error:
        return [f"activity {activity_id} {where}: {error!r}"]
    return [] if state == "Terminated" else [f"activity {activity_id} is still {state} {where}"]


async def _unread(city: City, batch: BatchNotes, ours: RestClient) -> list[str]:
    """Look whether all that a batch has begun has a result that can be read, then as ever."""
    if not batch.acknowledged:
        return []
    begun = {entry.tag for entry in city.world.ledger if entry.what == "begun"}
    wanted = sum(tag in begun for tag in batch.tags())
    try:
        results = await ours.activity.results(batch.activity_id, batch.batch_id, timeout_s=0)
    except ApiError as error:
        return [f"the results of {batch.tag} cannot be read: {error!r}"]
    if len(results) < wanted:
        return [f"{batch.tag} began {wanted} commands, and has {len(results)} results"]
    told = [result.ok for result in batch.results]
    if [result.result == "Ok" for result in results][: len(told)] != told:
        return [f"{batch.tag}: was told {told}, now {results}"]
    return []


async def _owed(node: SimNode) -> list[str]:
    assert node.running is not None
    rows = await Outbox(node.running.store, World(clock=node.clock)).pending()
    return [f"{row.kind} {row.key}" for row in rows]


def _judge_batches(city: City, program: Program) -> None:
    for batch in program.notes.batches.values():
        ledger = {
            tag: Counter(entry.what for entry in city.world.ledger if entry.tag == tag)
            for tag in batch.tags()
        }
        for index, tag in enumerate(batch.tags()):
            problem = _contradiction(batch, index, ledger[tag])
            if problem is not None:
                city.world.wrong(f"{tag}: {problem}; {dict(ledger[tag])}; {batch}")


def _contradiction(batch: BatchNotes, index: int, ledger: Counter[str]) -> str | None:
    if batch.fate == NEVER:
        return "ran though it was told never" if ledger else None
    if index >= len(batch.results):
        if batch.ended:
            return "ran after the end of its batch" if ledger else None
        return None
    result = batch.results[index]
    if result.ok and (ledger["done"], result.stdout) != (1, f"did {batch.tag}.{index}\n"):
        return "the result is not what happened"
    if result.ok or (result.message or "").startswith(INTERRUPTED):
        return None
    return f"failed: {result.message}" if ledger else None


def _judge_ledger(city: City) -> None:
    begun = Counter(entry.tag for entry in city.world.ledger if entry.what == "begun")
    for tag, times in begun.items():
        if times > 1:
            city.world.wrong(f"{tag} ran {times} times")
    tags = {
        tag
        for program in city.programs
        for batch in program.notes.batches.values()
        for tag in batch.tags()
    }
    for tag in begun.keys() - tags:
        city.world.wrong(f"{tag} ran, and nobody asked for it")


def simulate(seed: int) -> City:
    """Live through one seed."""
    shm = Path("/dev/shm")
    before = structlog.get_config()
    try:
        with tempfile.TemporaryDirectory(prefix="sim", dir=shm if shm.exists() else None) as name:
            return run_processes(live(Path(name), seed))
    finally:
        structlog.configure(**before)


def outcome_of(seed: int) -> Outcome:
    """Live through one seed, for a campaign."""
    city = simulate(seed)
    notes = [batch for program in city.programs for batch in program.notes.batches.values()]
    figures = Counter(
        deaths=sum("will die" in what for what in city.happened),
        misfortunes=len(city.happened),
        batches=len(notes),
        results=sum(len(batch.results) for batch in notes),
        virtual_minutes=int(city.lived_s // 60),
    )
    return Outcome(seed, city.world.broken, city.world.timeline, figures)
