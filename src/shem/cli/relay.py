"""`shem relay run|status`: the relay server, and a look at a running one."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import click

from shem.cli.lifetime import serve_until_stopped
from shem.cli.main import Options
from shem.kernel import log
from shem.kernel.config import (
    DEFAULT_RELAY_LISTEN,
    DEFAULT_RELAY_METRICS,
    DEFAULT_RELAY_PORT,
    parse_host_port,
)
from shem.kernel.errors import PeerError, Unreachable
from shem.kernel.world import World

STATUS_TIMEOUT_S: Final = 5.0


@click.group()
def relay() -> None:
    """The relay server, which nodes register at and find each other by."""


@relay.command()
@click.option(
    "--listen",
    default=DEFAULT_RELAY_LISTEN,
    envvar="SHEM_RELAY_LISTEN",
    show_default=True,
    help="Address of the UDP socket.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SHEM_RELAY_STATE_DIR",
    help="Keep slots and sessions here, so that a restart goes unnoticed by the nodes.",
)
@click.option(
    "--metrics",
    envvar="SHEM_RELAY_METRICS",
    help="Serve Prometheus metrics and the status over HTTP on this HOST:PORT.",
)
def run(listen: str, state_dir: Path | None, metrics: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    log.configure()
    address = parse_host_port(listen, default_port=DEFAULT_RELAY_PORT)
    serve_metrics = parse_host_port(metrics) if metrics else None
    serve_until_stopped(lambda stop: _serve(address, state_dir, serve_metrics, stop))


@relay.command()
@click.option(
    "--metrics",
    default=DEFAULT_RELAY_METRICS,
    envvar="SHEM_RELAY_METRICS",
    show_default=True,
    help="The HTTP address that the relay was started with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def status(options: Options, metrics: str, as_json: bool) -> None:
    """Show what a running relay has to do."""
    from shem.cli.ask import show_fields, show_json

    found = _ask_status(*parse_host_port(metrics))
    if options.json or as_json:
        show_json(found)
        return
    refused = found.pop("refused", {})
    show_fields(found)
    show_fields({f"refused: {reason}": count for reason, count in refused.items()})


def _ask_status(host: str, port: int) -> dict[str, Any]:
    url = f"http://[{host}]:{port}/status" if ":" in host else f"http://{host}:{port}/status"
    direct = build_opener(ProxyHandler({}))
    try:
        with direct.open(url, timeout=STATUS_TIMEOUT_S) as answer:
            found = json.load(answer)
    except (URLError, OSError) as error:
        reason = f"no relay answers at {url}: {error}; it serves this when run with --metrics"
        raise Unreachable(reason) from error
    except ValueError:
        found = None
    if not isinstance(found, dict) or "forwardedDatagrams" not in found:
        raise PeerError(f"{url} is not a relay's status")
    return found


async def _serve(
    address: tuple[str, int],
    state_dir: Path | None,
    metrics: tuple[str, int] | None,
    stop: asyncio.Event,
) -> None:
    from shem.relay.service import Relay

    async with Relay(World(), address, state_dir, metrics=metrics) as server:
        click.echo(f"relay listening on {server.address[0]}:{server.address[1]}")
        if server.metrics_address is not None:
            click.echo(f"metrics on http://{_text(server.metrics_address)}/metrics")
        await stop.wait()


def _text(address: tuple[str, int]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
