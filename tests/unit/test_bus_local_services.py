import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import LOCAL_CALLER, Call, GsbError, RemoteError
from shem.identity.keys import recover
from shem.identity.service import IdentityService
from shem.kernel.config import NodeConfig
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.net.memory import MemoryFabric
from shem.node.local import LocalServices
from shem.store.open import open_store
from shem.wire.flexbuffers import Blob, as_bytes

SECRET = "01" * 32
ME = NodeId("0x1a642f0e3c3af545e7acbd38b07251b3990914f1")
PEER = NodeId("0x" + "b" * 40)
NOBODY = NodeId("0x" + "c" * 40)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SimpleNamespace]:
    """A node with a known key and an autoconfigured app-key; and a peer that answers pings."""
    config = NodeConfig(datadir=tmp_path, autoconf_id_secret=SECRET, autoconf_appkey="aaaa1111")
    world, fabric, stop = World(), MemoryFabric(), asyncio.Event()
    async with AsyncExitStack() as stack:
        store = await open_store(tmp_path / "node.db", world=world)
        stack.push_async_callback(store.close)
        identity = IdentityService(store, world, config)
        await identity.start()
        bus = Bus()
        for ids, its_bus in ((ME, bus), (PEER, Bus())):
            net = fabric.node(ids)
            remote = RemoteBus(its_bus, net, [ids], rng=world.rng)
            local = LocalServices(its_bus, net, identity, stop=stop.set)
            for part in (remote, local, net):
                await stack.enter_async_context(part)

        async def ask(address: str, body: object) -> object:
            return await bus.request(LOCAL_CALLER, f"/local/{address}", body, timeout_s=5)

        yield SimpleNamespace(ask=ask, bus=bus, stop=stop, fabric=fabric)


async def test_the_default_identity_is_found_in_every_way(node: SimpleNamespace) -> None:
    shown = {
        "alias": None,
        "nodeId": ME,
        "isLocked": False,
        "isDefault": True,
        "deleted": False,
    }
    assert await node.ask("identity/List", {}) == [shown]
    assert await node.ask("identity/List", []) == [shown]
    upper = "0x" + ME[2:].upper()
    for question in ("byDefault", {"byDefault": 5}, {"byNodeId": upper}):
        assert await node.ask("identity/Get", question) == shown


@pytest.mark.parametrize("question", [{"byAlias": "nobody"}, {"byNodeId": NOBODY}])
async def test_an_unknown_identity_is_null(node: SimpleNamespace, question: object) -> None:
    assert await node.ask("identity/Get", question) is None


async def test_a_created_identity_has_its_alias_once(node: SimpleNamespace) -> None:
    made = await node.ask("identity/CreateGenerated", {"alias": "worker", "fromKeystore": None})

    assert await node.ask("identity/Get", {"byAlias": "worker"}) == made
    assert made["isDefault"] is False
    body = {"nodeId": made["nodeId"], "alias": None, "setDefault": False}
    assert await node.ask("identity/Update", body) == made


async def test_signing_takes_a_digest_as_it_is(node: SimpleNamespace) -> None:
    digest = bytes(range(32))
    for payload in (digest, Blob(digest), list(digest)):
        answer = await node.ask("identity/Sign", {"nodeId": ME, "payload": payload})
        signature = as_bytes(answer)
        assert signature.hex() == (
            "0002559ab98a8908ba4cf0f914eb8b66651405ab69ab7c461dd140e40baa1b5e1d"
            "2ef6ac88a13e2226f76a9d8d49bb9cf3061dac1364c0dfe7b69cd165a8d08f07"
        )
    assert as_bytes(await node.ask("identity/GetPubKey", ME)) == recover(digest, signature)


@pytest.mark.parametrize(
    ("message", "body", "payload"),
    [
        ("Sign", {"nodeId": ME, "payload": bytes(31)}, {"InternalErr": "sign error"}),
        ("Sign", {"nodeId": NOBODY, "payload": bytes(32)}, {"NodeNotFound": NOBODY}),
        ("GetPubKey", NOBODY, {"NodeNotFound": NOBODY}),
        (
            "Update",
            {"nodeId": ME, "alias": "", "setDefault": False},
            {"InternalErr": "an alias has 1 to 200 characters"},
        ),
        ("Update", {"nodeId": NOBODY, "setDefault": False}, {"NodeNotFound": NOBODY}),
        ("Lock", {"nodeId": NOBODY}, {"NodeNotFound": NOBODY}),
        ("Unlock", {"nodeId": ME, "password": "guess"}, "InvalidPassword"),
        ("Unlock", {"nodeId": NOBODY, "password": ""}, {"NodeNotFound": NOBODY}),
        ("DropId", {"nodeId": ME}, "DefaultIdentity"),
        ("DropId", {"nodeId": NOBODY}, {"NodeNotFound": NOBODY}),
        ("GetKeyFile", NOBODY, {"NodeNotFound": NOBODY}),
        (
            "Subscribe",
            {"endpoint": f"/net/{NOBODY}/x"},
            {"InternalErr": f"'/net/{NOBODY}/x' is not an endpoint of this node"},
        ),
    ],
)
async def test_a_refusal_of_the_identity_service(
    node: SimpleNamespace, message: str, body: object, payload: object
) -> None:
    with pytest.raises(RemoteError) as refusal:
        await node.ask(f"identity/{message}", body)
    assert refusal.value.payload == payload


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("identity/Get", "byMagic"),
        ("identity/Get", {"byAlias": 5}),
        ("identity/Get", {}),
        ("identity/Get", 5),
        ("identity/List", None),
        ("identity/Sign", {"nodeId": ME}),
        ("identity/Sign", {"nodeId": ME, "payload": "text"}),
        ("identity/Sign", {"nodeId": ME[2:], "payload": bytes(32)}),
        ("appkey/List", {"perPage": 10}),
        ("appkey/List", {"page": -1, "perPage": 10}),
        ("appkey/List", {"page": 1.0, "perPage": 10}),
        ("appkey/Create", {"name": "x", "role": "manager", "identity": None}),
        (
            "appkey/Create",
            {"name": "x", "role": "manager", "identity": ME, "allowOrigins": [1]},
        ),
        ("appkey/Remove", {"name": 5}),
        ("net/FindNode", {"nodeId": 5}),
        ("net/GsbPing", {"nodes": "all"}),
        ("net/GsbPing", {"nodes": [5]}),
        ("control/ShutdownRequest", {"graceful": 1}),
    ],
)
async def test_a_request_that_does_not_fit_its_message_is_bad_content(
    node: SimpleNamespace, address: str, body: object
) -> None:
    with pytest.raises(GsbError, match="Bad content: Serde Error: "):
        await node.ask(address, body)
    assert not node.stop.is_set()


async def test_app_keys_are_made_listed_by_page_and_removed(node: SimpleNamespace) -> None:
    keys = {}
    for name in ("one", "two", "three"):
        body = {"name": name, "role": "manager", "identity": ME, "allowOrigins": ["*"]}
        keys[name] = await node.ask("appkey/Create", body)
        assert await node.ask("appkey/Create", body) == keys[name]

    rows, pages = await node.ask("appkey/List", {"identity": None, "page": 1, "perPage": 2})
    assert ([row["name"] for row in rows], pages) == (["one", "two", "autoconfigured"], 2)
    rows, _ = await node.ask("appkey/List", {"page": 2, "perPage": 2})
    assert [row["name"] for row in rows] == ["three", "autoconfigured"]
    shown = await node.ask("appkey/GetByName", {"name": "two"})
    assert shown == await node.ask("appkey/Get", {"key": keys["two"]})
    assert (shown["identity"], shown["role"], shown["allowOrigins"]) == (ME, "manager", ["*"])

    assert await node.ask("appkey/Remove", {"name": "two", "identity": None}) is None
    rows, pages = await node.ask("appkey/List", {"identity": NOBODY, "page": 1, "perPage": 20})
    assert ([row["name"] for row in rows], pages) == (["autoconfigured"], 1)


@pytest.mark.parametrize(
    ("message", "body", "code", "text"),
    [
        ("Get", {"key": "nope"}, 500, "DAO error: NotFound"),
        ("GetByName", {"name": "nope"}, 500, "DAO error: NotFound"),
        ("Remove", {"name": "nope"}, 500, "DAO error: NotFound"),
        ("List", {"page": 0, "perPage": 10}, 400, "page starts at 1, perPage is 1 to 1000"),
        ("List", {"page": 1, "perPage": 0}, 400, "page starts at 1, perPage is 1 to 1000"),
        (
            "Create",
            {"name": "x", "role": "king", "identity": ME},
            500,
            "DAO error: NotFound",
        ),
        (
            "Create",
            {"name": "autoconfigured", "role": "manager", "identity": ME},
            500,
            "Preconfigured appkey already exists",
        ),
    ],
)
async def test_a_refusal_of_the_app_key_service(
    node: SimpleNamespace, message: str, body: object, code: int, text: str
) -> None:
    with pytest.raises(RemoteError) as refusal:
        await node.ask(f"appkey/{message}", body)
    assert refusal.value.payload == {"code": code, "message": text}


async def test_the_version_is_one_that_yagnas_clients_accept(node: SimpleNamespace) -> None:
    info = await node.ask("version/check", {"check": False})

    assert info["current"]["version"] == "0.17.6"
    assert info["current"]["name"].startswith("(shem ")
    assert info["pending"] is None


async def test_peers_are_pinged_on_both_channels(node: SimpleNamespace) -> None:
    rows = await node.ask("net/GsbPing", {"nodes": [PEER, NOBODY]})

    assert [(row["nodeId"], row["isP2p"]) for row in rows] == [(PEER, True), (NOBODY, False)]
    assert rows[0]["tcpPing"].keys() == rows[0]["udpPing"].keys() == {"secs", "nanos"}
    assert rows[1]["tcpPing"] is rows[1]["udpPing"] is None
    (row,) = await node.ask("net/GsbPing", {"nodes": []})
    assert row["nodeId"] == PEER


async def test_the_net_is_shown_in_the_forms_of_the_bus(node: SimpleNamespace) -> None:
    await node.ask("net/Connect", {"node": PEER})

    status = await node.ask("net/Status", {})
    assert (status["nodeId"], status["sessions"]) == (ME, 1)
    assert status["listenAddress"] == {"V4": [[127, 0, 0, 1], 11500]}
    assert status["publicAddress"] is None
    (session,) = await node.ask("net/Sessions", {})
    assert (session["nodeId"], session["sessionType"]) == (PEER, "p2p")
    assert await node.ask("net/ListNeighbours", {"size": 5}) == [PEER]
    assert (await node.ask("net/FindNode", {"nodeId": PEER}))["identities"] == [PEER]
    assert await node.ask("net/Sockets", {}) == []
    assert await node.ask("net/Disconnect", {"node": PEER}) is None
    assert await node.ask("net/Sessions", {}) == []


@pytest.mark.parametrize(
    ("message", "body", "payload"),
    [
        (
            "FindNode",
            {"nodeId": NOBODY},
            {"RuntimeException": f"node {NOBODY} is not registered"},
        ),
        ("Connect", {"node": NOBODY}, f"node {NOBODY} cannot be reached"),
        (
            "Connect",
            {"node": PEER, "keep": True},
            "to keep a connection alive is not supported yet",
        ),
        ("ListNeighbours", {"size": 0}, {"RuntimeException": "size is 1 to 256"}),
        (
            "SendBroadcastMessage",
            {},
            {"RuntimeException": "/local/net/SendBroadcastMessage is not supported yet"},
        ),
    ],
)
async def test_a_refusal_of_the_net_service(
    node: SimpleNamespace, message: str, body: object, payload: object
) -> None:
    with pytest.raises(RemoteError) as refusal:
        await node.ask(f"net/{message}", body)
    assert refusal.value.payload == payload


async def test_a_shutdown_can_be_asked_for(node: SimpleNamespace) -> None:
    assert await node.ask("control/ShutdownRequest", {"graceful": False}) is None

    assert node.stop.is_set()


async def test_a_subscriber_hears_what_is_locked_and_unlocked(node: SimpleNamespace) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()

    async def hear(_call: Call, body: object) -> None:
        heard.put_nowait(body)

    with node.bus.serve("/local/listener/Identity__Event", hear):
        for _ in range(2):  # a second subscription of the same endpoint is none
            await node.ask("identity/Subscribe", {"endpoint": "/local/listener"})
        await node.ask("identity/Lock", {"nodeId": ME})
        await node.ask("identity/Unlock", {"nodeId": ME, "password": ""})
        assert [await heard.get(), await heard.get()] == [
            {"accountLocked": {"identity": ME}},
            {"accountUnlocked": {"identity": ME}},
        ]
        await node.ask("identity/Unsubscribe", {"endpoint": "/local/listener"})
        await node.ask("identity/Lock", {"nodeId": ME})
    assert heard.empty()


async def test_a_subscriber_hears_of_app_keys_and_a_silent_one_harms_nobody(
    node: SimpleNamespace,
) -> None:
    heard: asyncio.Queue[dict[str, dict[str, object]]] = asyncio.Queue()

    async def hear(_call: Call, body: dict[str, dict[str, object]]) -> None:
        heard.put_nowait(body)

    subscribe = "appkey/Subscribe"
    assert await node.ask(subscribe, {"endpoint": "/local/absent"}) == 0
    assert await node.ask(subscribe, {"endpoint": "/local/listener"}) == 1
    with node.bus.serve("/local/listener/AppKey__Event", hear):
        key = await node.ask(
            "appkey/Create",
            {"name": "mine", "role": "manager", "identity": ME, "allowOrigins": []},
        )
        await node.ask("appkey/Remove", {"name": "mine", "identity": None})
        told = [await heard.get(), await heard.get()]
    assert [(*event, event[kind]["key"]) for event in told for kind in event] == [
        ("newKey", key),
        ("droppedKey", key),
    ]
