"""What our node says to other nodes and hears from them, as lines of a recording.

The lines are those of `tests/vectors/recordings/*_gsb.jsonl`. A node of ours runs in the test's own
process; its net is listened in on where messages pass between it and the bus.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shem.identity.keys import PrivateKey
from shem.kernel.config import NodeConfig
from shem.kernel.ids import NodeId
from shem.kernel.world import SystemRng, World
from shem.net.types import Channel, Peer
from shem.node.app import Node, running_node
from shem.wire.errors import WireError
from shem.wire.flexbuffers import Blob, unpack
from shem.wire.gsb import BroadcastRequest, CallReply, CallRequest, Code, decode_packet

APP_KEY = "tapped0000app0key"


@dataclass
class Tap:
    """A recording of everything between our node and the others."""

    node: Node
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def node_id(self) -> NodeId:
        return self.node.net.default_id

    @property
    def api_url(self) -> str:
        host, port = self.node.api_address
        return f"http://{host}:{port}"

    def listen(self) -> None:
        net = self.node.net
        send = net.send

        async def tapped(target: NodeId, channel: Channel, message: bytes, **options: Any) -> None:
            self._note(self.node_id, target, message)
            await send(target, channel, message, **options)

        net.send = tapped
        net.on_message(self._heard)

    def broadcasts(self, topic: str, sender: NodeId) -> list[list[str]]:
        """Return the offer ids of each broadcast of a topic by one node, doubles left out."""
        found = [
            line["data"]["body"]["offerIds"]
            for line in self.lines
            if (line["kind"], line.get("topic"), line["from"]) == ("broadcast", topic, sender)
        ]
        return [ids for index, ids in enumerate(found) if ids not in found[:index]]

    def calls(self, name: str, sender: NodeId) -> list[Any]:
        """Return the bodies of one node's calls of a message."""
        return [
            line["data"]
            for line in self.lines
            if line["kind"] == "call"
            and line["from"] == sender
            and line["address"].endswith(f"/{name}")
        ]

    def write(self, path: Path, source: str, **facts: object) -> None:
        """Keep the recording, in the form of those in `tests/vectors/recordings`."""
        header = {"source": source, "mark": "observed", **facts}
        text = "".join(json.dumps(line) + "\n" for line in [header, *self.lines])
        path.write_text(text)

    def _heard(self, peer: Peer, channel: Channel, message: bytes) -> None:
        del channel
        self._note(peer.node_id, self.node_id, message)

    def _note(self, sender: NodeId, receiver: NodeId, message: bytes) -> None:
        packet = decode_packet(message)
        line = {"t": round(time.time(), 4), "from": sender, "to": receiver}
        match packet:
            case CallRequest():
                about = {"kind": "call", "address": packet.address, "request_id": packet.request_id}
            case CallReply():
                about = {
                    "kind": "reply",
                    "request_id": packet.request_id,
                    "code": int(packet.code),
                    "reply_type": packet.reply_type.name,
                }
            case BroadcastRequest():
                about = {"kind": "broadcast", "topic": packet.topic}
            case _:
                return
        self.lines.append({**line, **about, "hex": packet.data.hex(), "data": _plain(packet)})


def _plain(packet: CallRequest | CallReply | BroadcastRequest) -> Any:
    if isinstance(packet, CallReply) and packet.code != Code.OK:
        return packet.data.decode(errors="replace")
    try:
        return _without_blobs(unpack(packet.data))
    except WireError:
        return None


def _without_blobs(value: Any) -> Any:
    if isinstance(value, Blob):
        return {"$blob": value.data.hex()}
    if isinstance(value, dict):
        return {name: _without_blobs(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_without_blobs(item) for item in value]
    return value


@asynccontextmanager
async def tapped_node(directory: Path, relay: tuple[str, int]) -> AsyncIterator[Tap]:
    """Run a node of ours in this process and record what it says and hears."""
    await asyncio.to_thread(directory.mkdir, mode=0o700)
    config = NodeConfig(
        datadir=directory,
        api_url="http://127.0.0.1:0",
        gsb_url=f"unix:{directory}/gsb.sock",
        bind_url="udp://127.0.0.1:0",
        relay_host=f"{relay[0]}:{relay[1]}",
        autoconf_appkey=APP_KEY,
        autoconf_id_secret=PrivateKey.generate(SystemRng()).secret_bytes().hex(),
    )
    async with running_node(config, World(), asyncio.Event()) as node:
        await node.net.wait_online(10)
        tap = Tap(node)
        tap.listen()
        yield tap
