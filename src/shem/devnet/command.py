"""`shem devnet demo|up`: a whole network on this machine."""

import sys
from pathlib import Path

import click

from shem.cli.main import Options

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the nodes keep data and logs [a new temporary directory].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def devnet() -> None:
    """A relay, a requestor node, a provider node and its agent on this machine."""


@devnet.command()
@directory_option
@json_option
@click.option("--keep", is_flag=True, help="Leave the devnet up afterwards, until Ctrl-C.")
@click.pass_obj
def demo(options: Options, directory: Path | None, as_json: bool, keep: bool) -> None:
    """Rent, take the requestor's parts away, come back; exits with 1 if a promise is broken.

    Hosts of their own and containers need root, /dev/net/tun and some tools; the table says what is
    not shown for want of them.
    """
    from shem.devnet.demo import run_demo

    sys.exit(run_demo(directory, keep=keep, as_json=as_json or options.json))


@devnet.command()
@directory_option
@json_option
@click.option("--hosts", is_flag=True, help="Give each program a host of its own (needs root).")
@click.pass_obj
def up(options: Options, directory: Path | None, as_json: bool, hosts: bool) -> None:
    """Start a devnet and print how to talk to it; Ctrl-C ends it."""
    from shem.devnet.demo import run_up

    sys.exit(run_up(directory, as_json=as_json or options.json, on_hosts=hosts))
