"""`shem app-key`: what a program shows to use this node (docs/protocol/gsb-identity.md §6.2)."""

from typing import Any, Final

import click

from shem.cli.ask import Ask, show_fields, show_json, show_table, with_node
from shem.cli.identity_words import json_option, resolve
from shem.cli.main import Options
from shem.kernel.errors import NotFound, ShemError

PAGE_SIZE: Final = 100
ROLE: Final = "manager"


@click.group()
def app_key() -> None:
    """Application keys: what a program shows to use this node."""


@app_key.command("create")
@click.argument("name")
@click.option("--id", "who", help="The identity it acts for: an alias or a node id.")
@click.option("--allow-origins", multiple=True, help="A web origin that may use it; repeatable.")
@json_option
@click.pass_obj
def create(
    options: Options, name: str, who: str | None, allow_origins: tuple[str, ...], as_json: bool
) -> None:
    """Make a key for the default identity, and print it; NAME again is the same key."""

    async def work(ask: Ask) -> Any:
        owner = await resolve(ask, who)
        body = {
            "name": name,
            "role": ROLE,
            "identity": owner["nodeId"],
            "allowOrigins": list(allow_origins),
        }
        return await ask("/local/appkey/Create", body)

    key = with_node(options, work)
    if options.json or as_json:
        show_json(key)
    else:
        click.echo(key)


@app_key.command("list")
@click.option("--id", "who", help="Only keys of this identity: an alias or a node id.")
@json_option
@click.pass_obj
def list_keys(options: Options, who: str | None, as_json: bool) -> None:
    """List the keys, with the identity each acts for."""

    async def work(ask: Ask) -> list[dict[str, object]]:
        owner = None if who is None else (await resolve(ask, who))["nodeId"]
        rows: list[dict[str, object]] = []
        page = 1
        while True:
            body = {"identity": owner, "page": page, "perPage": PAGE_SIZE}
            keys, pages = await ask("/local/appkey/List", body)
            rows += [_row(key) for key in keys if page == 1 or key["name"] != "autoconfigured"]
            if page >= pages:
                return rows
            page += 1

    rows = with_node(options, work)
    if options.json or as_json:
        show_json(rows)
    else:
        show_table(["name", "key", "id", "role", "created"], rows)


@app_key.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show(options: Options, name: str, as_json: bool) -> None:
    """Show one key."""

    async def work(ask: Ask) -> Any:
        return await _existing(ask, "/local/appkey/GetByName", {"name": name})

    found = with_node(options, work)
    if options.json or as_json:
        show_json(found)
    else:
        show_fields(found)


@app_key.command("drop")
@click.argument("name")
@json_option
@click.pass_obj
def drop(options: Options, name: str, as_json: bool) -> None:
    """Drop a key: it opens nothing from now on."""

    async def work(ask: Ask) -> Any:
        return await _existing(ask, "/local/appkey/Remove", {"name": name, "identity": None})

    with_node(options, work)
    if options.json or as_json:
        show_json(None)


async def _existing(ask: Ask, address: str, body: dict[str, object]) -> Any:
    """Ask about a key by name; the service reports a missing one as a failure of its database."""
    try:
        return await ask(address, body)
    except ShemError as error:
        if "NotFound" in error.message:
            raise NotFound(f"there is no app-key with name {body['name']}") from error
        raise


def _row(key: dict[str, object]) -> dict[str, object]:
    return {
        "created": key["createdDate"],
        "id": key["identity"],
        "key": key["key"],
        "name": key["name"],
        "role": key["role"],
    }
