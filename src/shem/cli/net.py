"""`shem net …`: yagna's verbs (docs/protocol/net.md §10.2), and `trace`."""

from collections.abc import Callable
from typing import Any, Final

import click

from shem.cli.ask import Ask, show_fields, show_json, show_table, with_node
from shem.cli.main import Options
from shem.cli.net_rows import node_fields, ping_row, session_row, socket_address, socket_row
from shem.cli.net_trace import trace
from shem.kernel.errors import Unreachable
from shem.kernel.ids import parse_node_id

Command = Callable[..., Any]

SOCKET_COLUMNS: Final = (
    "type",
    "port",
    "to addr",
    "to port",
    "state",
    "in [KiB/s]",
    "out [KiB/s]",
)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


@click.group()
def net() -> None:
    """The hybrid net: this node's sessions and its peers."""


@net.command()
@json_option
@click.pass_obj
def status(options: Options, as_json: bool) -> None:
    """Show this node's id, addresses and traffic."""

    async def work(ask: Ask) -> dict[str, Any]:
        return dict(await ask("/local/net/Status", {}))

    found = with_node(options, work)
    metrics = found["metrics"]
    shown = {
        "nodeId": found["nodeId"],
        "listenAddress": socket_address(found["listenAddress"]),
        "publicAddress": socket_address(found["publicAddress"]),
        "sessions": found["sessions"],
        "bandwidth": {
            "inAvgKiBps": metrics["rxAvg"] / 1024,
            "inKiBps": metrics["rxCurrent"] / 1024,
            "inMib": metrics["rxTotal"] / (1 << 20),
            "outAvgKiBps": metrics["txAvg"] / 1024,
            "outKiBps": metrics["txCurrent"] / 1024,
            "outMib": metrics["txTotal"] / (1 << 20),
        },
    }
    if options.json or as_json:
        show_json(shown)
        return
    bandwidth = shown.pop("bandwidth")
    show_fields({**shown, "in [MiB]": f"{bandwidth['inMib']:.2f}"})
    show_fields({"out [MiB]": f"{bandwidth['outMib']:.2f}"})


@net.command()
@json_option
@click.pass_obj
def sessions(options: Options, as_json: bool) -> None:
    """List the sessions with the relay and with peers."""

    async def work(ask: Ask) -> list[dict[str, Any]]:
        return [session_row(row) for row in await ask("/local/net/Sessions", {})]

    rows = with_node(options, work)
    if options.json or as_json:
        show_json(rows)
    else:
        show_table(["nodeId", "address", "type", "seen", "time", "ping"], rows)


@net.command()
@click.argument("node_id")
@json_option
@click.pass_obj
def find(options: Options, node_id: str, as_json: bool) -> None:
    """Ask the relay where NODE_ID is."""
    wanted = parse_node_id(node_id)

    async def work(ask: Ask) -> dict[str, Any]:
        return node_fields(await ask("/local/net/FindNode", {"nodeId": wanted}))

    found = with_node(options, work)
    if options.json or as_json:
        show_json(found)
    else:
        show_fields(found)


@net.command()
@click.argument("node_ids", nargs=-1)
@json_option
@click.pass_obj
def ping(options: Options, node_ids: tuple[str, ...], as_json: bool) -> None:
    """Measure the round trip to NODE_IDS (default: all peers) on both channels.

    Exits with 3 when a node asked for answers on neither channel.
    """
    wanted = [parse_node_id(text) for text in node_ids]

    async def work(ask: Ask) -> list[dict[str, Any]]:
        return [ping_row(row) for row in await ask("/local/net/GsbPing", {"nodes": wanted})]

    rows = with_node(options, work)
    if options.json or as_json:
        show_json(rows)
    else:
        show_table(["nodeId", "alias", "p2p", "ping (tcp)", "ping (udp)"], rows)
    silent = [row["nodeId"] for row in rows if not (row["ping (tcp)"] or row["ping (udp)"])]
    if wanted and silent:
        raise Unreachable(f"no answer from {', '.join(map(str, silent))}")


@net.command()
@json_option
@click.pass_obj
def sockets(options: Options, as_json: bool) -> None:
    """List the connections of the virtual network."""

    async def work(ask: Ask) -> list[dict[str, Any]]:
        return [socket_row(row) for row in await ask("/local/net/Sockets", {})]

    rows = with_node(options, work)
    if options.json or as_json:
        show_json(rows)
    else:
        show_table(list(SOCKET_COLUMNS), rows)


@net.command()
@click.argument("node_id")
@click.option(
    "--keep-alive", is_flag=True, help="Make the session anew whenever it ends (not supported yet)."
)
@json_option
@click.pass_obj
def connect(options: Options, node_id: str, keep_alive: bool, as_json: bool) -> None:
    """Make a route to NODE_ID: direct, by its dialling back, or through the relay."""
    wanted = {
        "node": parse_node_id(node_id),
        "keep": keep_alive,
        "reliableChannel": True,
        "transferChannel": False,
    }

    async def work(ask: Ask) -> dict[str, Any]:
        return node_fields(await ask("/local/net/Connect", wanted))

    found = with_node(options, work)
    if options.json or as_json:
        show_json(found)
    else:
        show_fields(found)


@net.command()
@click.argument("node_id")
@json_option
@click.pass_obj
def disconnect(options: Options, node_id: str, as_json: bool) -> None:
    """Drop the session with NODE_ID; the next packet makes a new one."""
    wanted = {"node": parse_node_id(node_id)}

    async def work(ask: Ask) -> None:
        await ask("/local/net/Disconnect", wanted)

    with_node(options, work)
    if options.json or as_json:
        show_json(None)


@net.command("list-neighbors")
@click.argument("count", type=click.IntRange(min=1))
@json_option
@click.pass_obj
def list_neighbours(options: Options, count: int, as_json: bool) -> None:
    """List up to COUNT nodes near to this one, which it broadcasts to."""

    async def work(ask: Ask) -> list[str]:
        return list(await ask("/local/net/ListNeighbours", {"size": count}))

    nodes = with_node(options, work)
    if options.json or as_json:
        show_json(nodes)
    else:
        for node in nodes:
            click.echo(node)


net.add_command(trace)
