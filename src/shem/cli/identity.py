"""`shem id`: what identities there are, and their names, locks and signatures.

As yagna's (docs/protocol/gsb-identity.md §6.2): with --json an identity is printed within
`{"Ok": …}`. Keystores come and go in `identity_keystores`.
"""

import hashlib
from pathlib import Path
from typing import Any

import click

from shem.cli import identity_keystores
from shem.cli.ask import Ask, show_fields, show_json, show_table, with_node
from shem.cli.identity_words import json_option, read_password, resolve, show_identity
from shem.cli.main import Options
from shem.kernel.errors import NotFound
from shem.wire.flexbuffers import as_bytes


@click.group()
def identity() -> None:
    """Identities of this node."""


identity.add_command(identity_keystores.create)
identity.add_command(identity_keystores.export)
identity.add_command(identity_keystores.import_keystore)


@identity.command("show")
@click.argument("who", required=False)
@json_option
@click.pass_obj
def show(options: Options, who: str | None, as_json: bool) -> None:
    """Show the default identity, or WHO: an alias or a node id."""

    async def work(ask: Ask) -> Any:
        try:
            return await resolve(ask, who)
        except NotFound:
            if options.json or as_json:
                return None
            raise

    show_identity(options, with_node(options, work), as_json=as_json)


@identity.command("list")
@json_option
@click.pass_obj
def list_identities(options: Options, as_json: bool) -> None:
    """List the identities, the default one first."""

    async def work(ask: Ask) -> Any:
        return await ask("/local/identity/List", {})

    infos = with_node(options, work)
    rows = [_row(info) for info in sorted(infos, key=lambda info: not info["isDefault"])]
    if options.json or as_json:
        show_json(rows)
    else:
        show_table(["default", "locked", "alias", "address", "delete in progress"], rows)


@identity.command("update")
@click.argument("who", required=False)
@click.option("--alias", help="The new alias.")
@click.option("--set-default", is_flag=True, help="Make it the default from the next start.")
@json_option
@click.pass_obj
def update(
    options: Options, who: str | None, alias: str | None, set_default: bool, as_json: bool
) -> None:
    """Rename an identity, or make it the default."""

    async def work(ask: Ask) -> Any:
        node_id = (await resolve(ask, who))["nodeId"]
        body = {"nodeId": node_id, "alias": alias, "setDefault": set_default}
        return await ask("/local/identity/Update", body)

    show_identity(options, with_node(options, work), as_json=as_json)


@identity.command("lock")
@click.argument("who", required=False)
@click.option("--new-password", is_flag=True, help="Ask for a new password and seal the key.")
@json_option
@click.pass_obj
def lock(options: Options, who: str | None, new_password: bool, as_json: bool) -> None:
    """Lock an identity: it signs nothing, and its app-keys open nothing, until it is unlocked."""
    password = read_password("New password", twice=True) if new_password else None

    async def work(ask: Ask) -> Any:
        node_id = (await resolve(ask, who))["nodeId"]
        return await ask("/local/identity/Lock", {"nodeId": node_id, "setPassword": password})

    show_identity(options, with_node(options, work), as_json=as_json)


@identity.command("unlock")
@click.argument("who", required=False)
@click.option("--password", help="The password; without this option it is asked for.")
@json_option
@click.pass_obj
def unlock(options: Options, who: str | None, password: str | None, as_json: bool) -> None:
    """Unlock an identity; a node that waits for its default identity starts then."""
    given = read_password("Password") if password is None else password

    async def work(ask: Ask) -> Any:
        node_id = (await resolve(ask, who))["nodeId"]
        return await ask("/local/identity/Unlock", {"nodeId": node_id, "password": given})

    show_identity(options, with_node(options, work), as_json=as_json)


@identity.command("drop")
@click.argument("who")
@click.option("--force", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def drop(options: Options, who: str, force: bool, as_json: bool) -> None:
    """Erase an identity with its key and its app-keys."""
    if not force:
        click.confirm(f"Erase {who} and its key for ever?", abort=True)

    async def work(ask: Ask) -> Any:
        node_id = (await resolve(ask, who))["nodeId"]
        return await ask("/local/identity/DropId", {"nodeId": node_id})

    show_identity(options, with_node(options, work), as_json=as_json)


@identity.command("pub-key")
@click.argument("who", required=False)
@json_option
@click.pass_obj
def public_key(options: Options, who: str | None, as_json: bool) -> None:
    """Print the public key."""

    async def work(ask: Ask) -> Any:
        return await ask("/local/identity/GetPubKey", (await resolve(ask, who))["nodeId"])

    _show_bytes(options, "pubKey", with_node(options, work), as_json=as_json)


@identity.command("sign")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("who", required=False)
@json_option
@click.pass_obj
def sign(options: Options, file: Path, who: str | None, as_json: bool) -> None:
    """Sign the SHA-256 of FILE."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").digest()

    async def work(ask: Ask) -> Any:
        node_id = (await resolve(ask, who))["nodeId"]
        return await ask("/local/identity/Sign", {"nodeId": node_id, "payload": digest})

    _show_bytes(options, "sig", with_node(options, work), as_json=as_json)


def _show_bytes(options: Options, name: str, value: object, *, as_json: bool) -> None:
    shown: dict[str, object] = {name: as_bytes(value).hex()}
    (show_json if options.json or as_json else show_fields)(shown)


def _row(info: dict[str, Any]) -> dict[str, object]:
    def mark(name: str) -> str:
        return "X" if info[name] else ""

    return {
        "address": info["nodeId"],
        "alias": info["alias"],
        "default": mark("isDefault"),
        "delete in progress": mark("deleted"),
        "locked": mark("isLocked"),
    }
