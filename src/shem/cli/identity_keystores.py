"""`shem id create|import|export`: keys into the node and out of it.

Keys are sealed here and sent as keystores, the files that yagna and Ethereum's wallets read, so
that a password never crosses the bus on the way in (docs/protocol/gsb-identity.md §3.3, §6.2).
"""

import os
from pathlib import Path
from typing import Any

import click

from shem.cli.ask import Ask, with_node
from shem.cli.identity_words import json_option, read_password, resolve, show_identity
from shem.cli.main import Options
from shem.identity.keys import PrivateKey
from shem.identity.keystore import WrongPassword, open_keystore, seal
from shem.identity.yagna_datadir import YagnaIdentity, read_identities
from shem.kernel.errors import Conflict, NotFound, UsageError
from shem.kernel.world import SystemRng


@click.command("create")
@click.argument("alias", required=False)
@click.option("--no-password", is_flag=True, help="Seal the key without a password.")
@click.option("--password", help="Seal it with this one; else it is asked for.")
@click.option(
    "--from-keystore",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take this file as it is, with its password.",
)
@click.option("--from-private-key", metavar="HEX", help="64 hex digits.")
@click.option("--set-default", is_flag=True, help="Make it the default from the next start.")
@json_option
@click.pass_obj
def create(
    options: Options,
    *,
    alias: str | None,
    no_password: bool,
    password: str | None,
    from_keystore: Path | None,
    from_private_key: str | None,
    set_default: bool,
    as_json: bool,
) -> None:
    """Make an identity, or take one from a key; with a password it starts locked."""
    if from_keystore is not None and from_private_key is not None:
        raise UsageError("either a keystore or a private key")
    if from_keystore is not None:
        keystore = _read(from_keystore)
    else:
        rng = SystemRng()
        key = PrivateKey.from_hex(from_private_key) if from_private_key else None
        if no_password:
            chosen = ""
        else:
            chosen = read_password("Password", twice=True) if password is None else password
        keystore = seal(key or PrivateKey.generate(rng), chosen, rng)
    _take(options, keystore, alias, set_default=set_default, as_json=as_json)


@click.command("import")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--alias", help="Its alias here.")
@click.option(
    "--from-yagna",
    metavar="DATADIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Take yagna's default identity, with its node id; yagna must be stopped.",
)
@click.option("--id", "who", help="With --from-yagna: another of its identities.")
@click.option("--set-default", is_flag=True, help="Make it the default from the next start.")
@json_option
@click.pass_obj
def import_keystore(
    options: Options,
    *,
    file: Path | None,
    alias: str | None,
    from_yagna: Path | None,
    who: str | None,
    set_default: bool,
    as_json: bool,
) -> None:
    """Import a keystore FILE, or an identity of yagna's; with a password it starts locked.

    \b
    To move from yagna and stay the same node:
      shem id import --from-yagna ~/.local/share/yagna --set-default
    and restart the node.
    """
    if (file is None) == (from_yagna is None):
        raise UsageError("give either a keystore file or --from-yagna DATADIR")
    if from_yagna is not None:
        chosen = _chosen(read_identities(from_yagna), who)
        keystore, alias = chosen.keystore, alias or chosen.alias
    else:
        assert file is not None
        keystore = _read(file)
    _take(options, keystore, alias, set_default=set_default, as_json=as_json)


@click.command("export")
@click.argument("who", required=False)
@click.option("--plain", is_flag=True, help="The bare private key, as hex digits.")
@click.option("--file-path", type=click.Path(path_type=Path), help="Write it there, mode 0600.")
@click.pass_obj
def export(options: Options, who: str | None, plain: bool, file_path: Path | None) -> None:
    """Print the keystore, which opens in yagna and in wallets."""

    async def work(ask: Ask) -> Any:
        return await ask("/local/identity/GetKeyFile", (await resolve(ask, who))["nodeId"])

    text = str(with_node(options, work))
    if plain:
        text = _opened(text).secret_bytes().hex()
    if file_path is None:
        click.echo(text)
    else:
        _write(file_path, text)
        click.echo(f"Written to '{file_path}'")


def _take(
    options: Options, keystore: str, alias: str | None, *, set_default: bool, as_json: bool
) -> None:
    """Hand a keystore to the node; make it the default if asked to."""

    async def work(ask: Ask) -> Any:
        body = {"alias": alias, "fromKeystore": keystore}
        made = await ask("/local/identity/CreateGenerated", body)
        if not set_default:
            return made
        change = {"nodeId": made["nodeId"], "alias": None, "setDefault": True}
        return await ask("/local/identity/Update", change)

    show_identity(options, with_node(options, work), as_json=as_json)


def _chosen(found: list[YagnaIdentity], who: str | None) -> YagnaIdentity:
    for identity in found:
        if who in (identity.node_id, identity.alias) if who else identity.is_default:
            return identity
    raise NotFound(f"yagna's data directory holds no identity {who or 'that is the default'}")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error


def _write(file: Path, text: str) -> None:
    """Write a new file for its owner's eyes alone; what is there already stays."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(f"{file} exists already") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error}") from error
    with os.fdopen(descriptor, "w") as out:
        out.write(text)


def _opened(keystore: str) -> PrivateKey:
    try:
        return open_keystore(keystore, "")
    except WrongPassword:
        return open_keystore(keystore, read_password("Password"))
