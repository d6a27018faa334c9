"""`shem relay run`: the relay server."""

import asyncio
from pathlib import Path

import click

from shem.cli.lifetime import serve_until_stopped
from shem.kernel import log
from shem.kernel.config import (
    DEFAULT_RELAY_LISTEN,
    DEFAULT_RELAY_PORT,
    parse_host_port,
)
from shem.kernel.world import World


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
    help="Keep slot numbers here, so that nodes find each other at once after a restart.",
)
def run(listen: str, state_dir: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    log.configure()
    address = parse_host_port(listen, default_port=DEFAULT_RELAY_PORT)
    serve_until_stopped(lambda stop: _serve(address, state_dir, stop))


async def _serve(address: tuple[str, int], state_dir: Path | None, stop: asyncio.Event) -> None:
    from shem.relay.service import Relay

    async with Relay(World(), address, state_dir) as server:
        click.echo(f"relay listening on {server.address[0]}:{server.address[1]}")
        await stop.wait()
