"""`shem net trace`: what the node's net does, as it happens."""

import asyncio
import json
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import click

from shem.cli.main import Options
from shem.kernel.config import DEFAULT_GSB_URL, parse_gsb_url, setting
from shem.kernel.ids import ZERO_NODE, NodeId, parse_node_id

LAYERS: Final = ("event", "message", "packet", "control", "datagram")
SILENCE_MAX_S: Final = 20.0
"""The node says every five seconds that it is still there."""
_ARROWS: Final = {"in": "<-", "out": "->", "": "--"}


@click.command()
@click.argument("peer", required=False)
@click.option(
    "--layer",
    "layers",
    type=click.Choice(LAYERS),
    multiple=True,
    help="Show this, may be repeated [event, message and control].",
)
@click.option("--all", "everything", is_flag=True, help="Show all layers.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def trace(
    options: Options,
    peer: str | None,
    layers: tuple[str, ...],
    everything: bool,
    as_json: bool,
) -> None:
    """Show sessions, packets and messages live, until Ctrl-C; only those of PEER when it is named.

    Contents are not shown. A node that nobody watches spends nothing on this.
    """
    wanted: dict[str, object] = {
        "peer": parse_node_id(peer) if peer else None,
        "layers": list(LAYERS if everything else layers),
    }
    url = options.gsb_url or setting("GSB_URL", "GSB_URL") or DEFAULT_GSB_URL
    asyncio.run(_follow(url, wanted, as_json=options.json or as_json))


async def _follow(url: str, wanted: dict[str, object], *, as_json: bool) -> None:
    from shem.bus.client import BusClient
    from shem.bus.typed import unwrap
    from shem.wire.flexbuffers import pack

    address = "/local/net/Trace"
    lost = 0
    async with BusClient(parse_gsb_url(url), name="shem-cli", reconnect=False) as client:
        answers = client.stream(address, pack(wanted), timeout_s=SILENCE_MAX_S)
        async with aclosing(answers):
            async for answer in answers:
                found: Any = unwrap(answer, address)
                for row in found["rows"]:
                    click.echo(json.dumps(row) if as_json else line(row))
                if found["lost"] > lost:
                    click.echo(f"({found['lost'] - lost} rows were lost)", err=True)
                    lost = found["lost"]


def line(row: dict[str, Any]) -> str:
    """Return a row for people: time, layer, direction, who, what."""
    at = datetime.fromtimestamp(row["at"]).astimezone()
    who = _name(row["peer"]) if row["peer"] else "unknown"
    where = f" {row['address']}" if row["address"] else ""
    when = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
    arrow = _ARROWS[row["direction"]]
    return f"{when} {row['layer']:<8} {arrow} {who}{where}  {row['text']}"


def _name(peer: NodeId) -> str:
    return "relay" if peer == ZERO_NODE else f"{peer[:10]}…"
