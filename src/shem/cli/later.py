"""Commands whose names are fixed and which are not built yet."""

import click

from shem.kernel.errors import NotSupported


@click.group()
def broker() -> None:
    """The payment broker."""


@broker.command()
def run() -> None:
    """Accept and pay for absent requestors (not supported yet)."""
    raise NotSupported("the payment broker is not supported yet")
