"""Which offers are up: as the operator's files and the resource ledger want it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shem.exeunit.runtimes.choice import OFFER_TEMPLATE
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider import offers as offers_module
from shem.provider.activities import Activities
from shem.provider.agreements import Agreements
from shem.provider.config import ProviderConfig
from shem.provider.descriptor import BUILT_IN, Descriptor
from shem.provider.exeunits import Processes
from shem.provider.hardware import Machine
from shem.provider.offer import COEFFICIENTS, MEMORY_GIB
from shem.provider.offers import Offers, capacity_of
from shem.provider.presets import Preset, load_presets, save_presets
from shem.provider.records import Records
from shem.provider.settings import SettingsWatch
from shem.rest.client import RestClient
from shem.store.open import open_store
from tests.rented import MARKET, PROVIDER
from tests.scripted_node import APP_KEY, Answer, Call, ScriptedNode, ok, scripted_node

EVENTS = f"{MARKET}/offers/*/events"
MACHINE = Machine(architecture="x86_64", cores=1, threads=2, memory_gib=8.0, storage_gib=8.0)


class Market:
    """The offers that are up at a scripted node."""

    def __init__(self, node: ScriptedNode) -> None:
        self.up: dict[str, dict[str, Any]] = {}
        self.count = 0
        node.answer("GET", "/net-api/v2/net/status", ok({"nodeId": PROVIDER, "sessions": 1}))
        node.answer("POST", f"{MARKET}/offers", self._publish)
        node.answer("GET", f"{MARKET}/offers", self._mine)
        node.answer("GET", EVENTS, self._events)
        node.answer("DELETE", f"{MARKET}/offers/*", self._withdraw)

    def prices(self) -> list[list[float]]:
        return sorted(offer["properties"][COEFFICIENTS] for offer in self.up.values())

    def _publish(self, call: Call) -> Answer:
        self.count += 1
        self.up[f"sub-{self.count}"] = call.body
        return Answer(201, f"sub-{self.count}")

    def _mine(self, _: Call) -> Answer:
        rows = [
            {**offer, "offerId": name, "providerId": PROVIDER} for name, offer in self.up.items()
        ]
        return ok(rows)

    def _events(self, call: Call) -> Answer:
        there = call.path.split("/")[-2] in self.up
        return Answer(408, {"message": "Timeout"}) if there else Answer(404, {"message": "gone"})

    def _withdraw(self, call: Call) -> Answer:
        there = self.up.pop(call.path.split("/")[-1], None)
        return Answer(204) if there else Answer(404, {"message": "gone"})


@pytest.fixture
async def node() -> AsyncIterator[ScriptedNode]:
    async with scripted_node() as scripted:
        yield scripted


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers_module, "LOOK_PERIOD_S", 0.05)
    monkeypatch.setattr(offers_module, "FULL_HOLD_S", 0.0)


@asynccontextmanager
async def offering(
    node: ScriptedNode, directory: Path, *, agreements_max: int = 2
) -> AsyncIterator[Agreements]:
    world = World()
    store = await open_store(directory / "agent.db", world=world, migrations="agent")
    records = Records(store, world, NodeId(PROVIDER))
    config = ProviderConfig(app_key=APP_KEY, data_dir=directory, agreements_max=agreements_max)
    watch = SettingsWatch(directory, [BUILT_IN], MACHINE)
    settings = watch.load()
    common: dict[str, Any] = {"config": config, "records": records, "world": world}
    async with RestClient(node.url, APP_KEY) as client, TaskScope() as scope:
        common |= {"client": client, "scope": scope}
        activities = Activities(descriptors=[BUILT_IN], units=Processes(world), **common)
        agreements = Agreements(
            activities=activities,
            session_id="s",
            capacity=capacity_of(settings, MACHINE, config),
            **common,
        )

        async def template(_: Descriptor) -> dict[str, Any]:
            return OFFER_TEMPLATE

        found = Offers(
            machine=MACHINE,
            descriptors=[BUILT_IN],
            watch=watch,
            agreements=agreements,
            node_id=PROVIDER,
            template=template,
            **common,
        )
        scope.spawn(found.run(settings), "offers")
        yield agreements
    await store.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a scripted node tells nobody
            await asyncio.sleep(0.01)


def priced(name: str, cpu: float, runtime: str = "wasmtime") -> Preset:
    return Preset(name, runtime, usage_coeffs={"golem.usage.cpu_sec": cpu})


async def test_one_offer_for_each_active_preset_and_changes_are_followed(
    node: ScriptedNode, tmp_path: Path
) -> None:
    market = Market(node)
    async with offering(node, tmp_path):
        await until(lambda: market.prices() == [[0.0, 0.0, 0.0]])
        presets = load_presets(tmp_path)
        assert presets is not None

        save_presets(tmp_path, presets.created(priced("dear", 0.5)).activated("dear"))
        await until(lambda: market.prices() == [[0.0, 0.0, 0.0], [0.5, 0.0]])
        assert market.count == 2

        save_presets(tmp_path, presets.created(priced("dear", 0.7)).activated("dear"))
        await until(lambda: market.prices() == [[0.0, 0.0, 0.0], [0.7, 0.0]])
        assert market.count == 3

        save_presets(tmp_path, presets.deactivated("wasmtime"))
        await until(lambda: market.up == {})


async def test_a_preset_without_its_runtime_does_not_keep_others_from_being_offered(
    node: ScriptedNode, tmp_path: Path
) -> None:
    market = Market(node)
    presets = SettingsWatch(tmp_path, [BUILT_IN], MACHINE).load().presets
    save_presets(tmp_path, presets.created(priced("odd", 1.0, "vm")).activated("odd"))

    async with offering(node, tmp_path):
        await until(lambda: market.prices() == [[0.0, 0.0, 0.0]])


async def test_a_full_provider_offers_nothing_until_something_is_free(
    node: ScriptedNode, tmp_path: Path
) -> None:
    market = Market(node)
    async with offering(node, tmp_path) as agreements:
        await until(lambda: len(market.up) == 1)
        share = agreements.capacity.share
        agreements.reserve("a" * 64, share)
        agreements.reserve("b" * 64, share)
        await until(lambda: market.up == {})
        assert "limit: 2" in (agreements.ledger.shortage(share) or "")

        agreements.release("a" * 64)

        await until(lambda: len(market.up) == 1)


async def test_an_offer_promises_one_share_of_the_profile(
    node: ScriptedNode, tmp_path: Path
) -> None:
    market = Market(node)
    async with offering(node, tmp_path, agreements_max=4):
        await until(lambda: len(market.up) == 1)
        [offer] = market.up.values()
        assert offer["properties"][MEMORY_GIB] == 1.4

        profile = {"cpu_threads": 1, "mem_gib": 4.0, "storage_gib": 4.0}
        text = json.dumps({"active": "x", "profiles": {"x": profile}})
        (tmp_path / "hardware.json").write_text(text)

        await until(lambda: [o["properties"][MEMORY_GIB] for o in market.up.values()] == [1.0])


async def test_offers_survive_a_restart_and_those_of_removed_presets_do_not(
    node: ScriptedNode, tmp_path: Path
) -> None:
    market = Market(node)
    presets = SettingsWatch(tmp_path, [BUILT_IN], MACHINE).load().presets
    save_presets(tmp_path, presets.created(priced("dear", 0.5)).activated("dear"))
    async with offering(node, tmp_path):
        await until(lambda: len({call.path for call in node.made("GET", EVENTS)}) == 2)
    save_presets(tmp_path, presets)

    async with offering(node, tmp_path):
        await until(lambda: market.prices() == [[0.0, 0.0, 0.0]])

    assert market.count == 2
