"""How a command asks the running node: one call over the bus socket, as yagna's CLI does."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import click

from shem.cli.main import Options
from shem.kernel.config import DEFAULT_GSB_URL, parse_gsb_url, setting

CALL_TIMEOUT_S: Final = 12.0
"""Longer than the ten seconds the node itself gives a ping."""

T = TypeVar("T")
Ask = Callable[[str, object], Awaitable[Any]]
"""`(address, body) -> the Ok value`."""


def with_node(options: Options, work: Callable[[Ask], Awaitable[T]]) -> T:
    """Connect to the node's bus, run `work`, disconnect; Unreachable when no node answers."""
    url = options.gsb_url or setting("GSB_URL", "GSB_URL") or DEFAULT_GSB_URL

    async def run() -> T:
        from shem.bus.client import BusClient

        async with BusClient(parse_gsb_url(url), name="shem-cli", reconnect=False) as client:

            async def ask(address: str, body: object) -> Any:
                return await client.request(address, body, timeout_s=CALL_TIMEOUT_S)

            return await work(ask)

    return asyncio.run(run())


def show_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def show_fields(fields: dict[str, object]) -> None:
    """Print an object for people: one aligned line per field."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {'-' if value is None else value}")


def show_table(columns: list[str], rows: list[dict[str, object]]) -> None:
    """Print rows for people; the cells are looked up by column title."""
    texts = [[str("-" if row.get(name) is None else row[name]) for name in columns] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *texts, strict=True)]
    for line in [columns, *texts]:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())
