"""A UDP proxy in front of a relay that drops datagrams at random, both ways."""

import asyncio
import random
from collections.abc import Callable
from contextlib import asynccontextmanager

Address = tuple[str, int]


class _Port(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Callable[[bytes, Address], None]) -> None:
        self._on_datagram = on_datagram
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self._on_datagram(data, addr)


class LossyProxy:
    """Gives each client a port of its own towards the target."""

    def __init__(self, target: Address, seed: int) -> None:
        self.loss = 0.0
        self.dropped = 0
        self._target = target
        self._random = random.Random(seed)
        self._clients: dict[Address, asyncio.Future[_Port]] = {}
        self._ports: list[_Port] = []

    @property
    def address(self) -> Address:
        return self._front.transport.get_extra_info("sockname")[:2]

    async def start(self) -> None:
        self._front = await self._open(self._on_client)

    def close(self) -> None:
        for port in self._ports:
            port.transport.close()

    async def _open(self, on_datagram) -> _Port:
        loop = asyncio.get_running_loop()
        _, port = await loop.create_datagram_endpoint(
            lambda: _Port(on_datagram), local_addr=("127.0.0.1", 0)
        )
        self._ports.append(port)
        return port

    def _on_client(self, data: bytes, client: Address) -> None:
        if client not in self._clients:
            back = self._open(lambda data, _: self._pass(self._front, data, client))
            self._clients[client] = asyncio.ensure_future(back)
        opened = self._clients[client]
        if opened.done():  # a client repeats what comes before that
            self._pass(opened.result(), data, self._target)

    def _pass(self, port: _Port, data: bytes, to: Address) -> None:
        if self._random.random() < self.loss:
            self.dropped += 1
        else:
            port.transport.sendto(data, to)


@asynccontextmanager
async def lossy_proxy(target: Address, seed: int = 1):
    proxy = LossyProxy(target, seed)
    await proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
