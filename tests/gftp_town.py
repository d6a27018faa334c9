"""One bus that plays two nodes and the way between them, which can be cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shem.bus.client import BusClient
from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.bus.types import LOCAL_CALLER, Call, GsbError
from shem.gftp.patience import Patience
from shem.gftp.publisher import Publisher
from shem.gftp.transport import Transport
from shem.kernel.config import GsbAddress
from shem.kernel.errors import TimedOut, Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng, World

NODE = NodeId("0x" + "ab" * 20)


class Town:
    """The bus, the side that publishes, and the side that moves files."""

    def __init__(self, bus: Bus, socket: Path, client: BusClient, world: World) -> None:
        self.bus = bus
        self.socket = socket
        self.client = client
        self.world = world
        self.publisher = Publisher(client, NODE, world.rng)
        self.failures: list[Exception] = []
        """What the next calls fail with, the last of the list first."""
        self.lost_replies = 0
        """How many answers are lost after their call was done."""
        self.calls: list[str] = []
        self.cut = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    def transport(self, patience_s: float = 20.0) -> Transport:
        return Transport(self.client, lambda: Patience(self.world, patience_s))

    async def pass_on(self, call: Call) -> bytes:
        """Carry a call to the other side, as the net does."""
        self.calls.append(call.address.rpartition("/")[2])
        if self.failures:
            raise self.failures.pop()
        if not self.open.is_set():
            raise Unreachable("the connection broke")
        address = call.address.replace(f"/transfer/net/{NODE}", "/public")
        answer = await self.bus.call(LOCAL_CALLER, address, call.data, timeout_s=5)
        if self.lost_replies:
            self.lost_replies -= 1
            raise TimedOut("no answer")
        return answer


@asynccontextmanager
async def town(directory: Path, seed: int = 1) -> AsyncIterator[Town]:
    world = World(rng=SeededRng(seed))
    bus = Bus()
    socket = directory / "bus.sock"
    address = GsbAddress(path=socket)
    async with SocketServer(bus, address, world=world), BusClient(address, world=world) as client:
        await client.connected()
        made = Town(bus, socket, client, world)
        bus.bind(f"/transfer/net/{NODE}", made.pass_on)
        bus.serve("/local/identity/Get", _identity)
        yield made
        await made.publisher.close_all()


async def _identity(call: Call, body: object) -> object:
    del call
    assert body == "byDefault"
    return {"nodeId": NODE, "alias": None, "isDefault": True, "isLocked": False, "deleted": False}


def passing_failures(count: int) -> list[Exception]:
    kinds = (Unreachable("away"), TimedOut("late"), GsbError("lost connection"))
    return [kinds[number % len(kinds)] for number in range(count)]
