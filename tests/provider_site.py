"""The inside of a provider agent: agreements and activities, at a scripted node and a real bus."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.exeunit.agreement import expand
from shem.kernel.config import GsbAddress
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider.activities import Activities
from shem.provider.agreements import Agreements
from shem.provider.config import ProviderConfig
from shem.provider.descriptor import BUILT_IN
from shem.provider.exeunits import Unit
from shem.provider.hardware import Capacity, Resources
from shem.provider.records import AgreementState, Records
from shem.rest.client import RestClient
from shem.store.open import open_store
from tests.rented import AGREEMENT_ID, MARKET, PROVIDER, REQUESTOR
from tests.scripted_node import APP_KEY, ScriptedNode, ok, scripted_node

AMPLE = Resources(64, 64.0, 64.0)
WORD = "Finished by its terms: idle"


@dataclass
class Puppet:
    """An ExeUnit that ends when it is told to."""

    pid: int = 1
    started: float = 1.0
    code: "asyncio.Future[int]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    async def wait(self, world: World) -> int | None:
        del world
        return await asyncio.shield(self.code)


class Puppets:
    """Where they run."""

    def __init__(self) -> None:
        self.made: list[Puppet] = []

    async def start(self, command: Sequence[str], *, work_dir: Path, gsb_url: str) -> Unit:
        del command, gsb_url
        await asyncio.to_thread(work_dir.mkdir, parents=True, exist_ok=True)
        self.made.append(Puppet())
        return self.made[-1]

    async def adopt(self, pid: int | None, started: float | None, activity_id: str) -> Unit | None:
        del pid, started, activity_id
        return None

    async def end(self, unit: Unit, *, patience_s: float) -> None:
        del patience_s
        assert isinstance(unit, Puppet)
        if not unit.code.done():
            unit.code.set_result(0)


@dataclass
class Site:
    """An agent's inside with one agreement in force."""

    node: ScriptedNode
    directory: Path
    activities: Activities
    agreements: Agreements
    records: Records
    puppets: Puppets
    bus: Bus
    common: dict[str, Any]

    async def create(self, activity_id: str) -> None:
        record = self.agreements.in_force(AGREEMENT_ID)
        assert record is not None
        await self.activities.create(activity_id, record)
        await until(lambda: len(self.puppets.made) > 0)

    def leave_word(self, activity_id: str) -> None:
        work_dir = self.directory / "exe-unit" / "work" / AGREEMENT_ID / activity_id
        (work_dir / "ended.json").write_text(json.dumps({"text": WORD, "cause": "idle"}))

    def terminations(self) -> list[dict[str, Any]]:
        made = self.node.made("POST", f"{MARKET}/agreements/*/terminate")
        return [call.body for call in made]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a scripted node tells nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def site(
    directory: Path,
    *,
    multi: bool = True,
    agree: bool = True,
    offer: dict[str, Any] | None = None,
) -> AsyncIterator[Site]:
    """Begin with an agreement in force; without `agree` with what an earlier site left."""
    world, bus, puppets = World(), Bus(), Puppets()
    address = GsbAddress(path=directory / "bus.sock")
    store = await open_store(directory / "agent.db", world=world, migrations="agent")
    records = Records(store, world, NodeId(PROVIDER))
    demand = {"golem.srv.caps.multi-activity": multi}
    body = {
        "runtime": "wasmtime",
        "agreement": {
            "demand": {"properties": expand(demand), "requestorId": REQUESTOR},
            "offer": {"properties": expand(offer or {})},
        },
    }
    if agree:
        lives_ns = world.clock.wall_ns() + 3_600 * 10**9
        await records.add_agreement(AGREEMENT_ID, body, lives_ns)
        await records.set_agreement(AGREEMENT_ID, AgreementState.APPROVED)
    async with (
        scripted_node() as node,
        SocketServer(bus, address, world=world),
        RestClient(node.url, APP_KEY) as client,
        TaskScope() as scope,
    ):
        node.answer("GET", "/activity-api/v1/activity/*/state", ok({"state": ["Ready", None]}))
        node.answer("PUT", "/activity-api/v1/activity/*/state", ok(None))
        node.answer("POST", f"{MARKET}/agreements/*/terminate", ok(b""))
        row = {"properties": {}, "constraints": "()", "timestamp": ""}
        found = {
            "agreementId": AGREEMENT_ID,
            "demand": {**row, "demandId": "d", "requestorId": REQUESTOR},
            "offer": {**row, "offerId": "o", "providerId": PROVIDER},
            "validTo": "",
            "state": "Approved",
        }
        node.answer("GET", f"{MARKET}/agreements/*", ok(found))
        common: dict[str, Any] = {
            "config": ProviderConfig(app_key=APP_KEY, data_dir=directory, gsb_url=str(address)),
            "records": records,
            "client": client,
            "world": world,
            "scope": scope,
        }
        activities = Activities(descriptors=[BUILT_IN], units=puppets, **common)
        agreements = Agreements(
            activities=activities, session_id="s", capacity=Capacity(AMPLE, AMPLE), **common
        )
        await activities.resume()
        await agreements.resume()
        yield Site(node, directory, activities, agreements, records, puppets, bus, common)
    await store.close()
