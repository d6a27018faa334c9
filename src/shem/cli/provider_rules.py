"""`shem provider rule`: who may rent here."""

from collections.abc import Callable

import click
import msgspec

from shem.cli.ask import show_json, show_table
from shem.cli.provider_rows import here, json_option, wants_json
from shem.kernel.errors import NotFound, NotSupported
from shem.kernel.ids import parse_node_id
from shem.provider.access import LISTS, AccessList, load_access, save_access
from shem.provider.files import changing

LIST = click.argument("which", type=click.Choice([*LISTS, "outbound"]))


@click.group()
def rule() -> None:
    """Who may rent here: a blacklist, or a list of those alone who may."""


@rule.command("list")
@json_option
@click.pass_context
def list_rules(ctx: click.Context, /, as_json: bool) -> None:
    """List the rules."""
    found = load_access(here(ctx))
    if wants_json(ctx, as_json):
        show_json({name: msgspec.to_builtins(found.of(name)) for name in LISTS})
        return
    rows: list[dict[str, object]] = []
    for name in LISTS:
        state = "enabled" if found.of(name).enabled else "disabled"
        identities: list[str | None] = [*found.of(name).identity] or [None]
        rows += [{"rule": name, "state": state, "identity": identity} for identity in identities]
    show_table(["rule", "state", "identity"], rows)


@rule.command()
@LIST
@click.argument("kind", type=click.Choice(["identity", "certified"]))
@click.argument("identities", nargs=-1, required=True)
@click.pass_context
def add(ctx: click.Context, /, which: str, kind: str, identities: tuple[str, ...]) -> None:
    """Put node ids on a list."""
    ids = _ids(kind, identities)

    def change(listed: AccessList) -> AccessList:
        new = [identity for identity in ids if identity not in listed.identity]
        return msgspec.structs.replace(listed, identity=[*listed.identity, *new])

    _change(ctx, which, change)


@rule.command()
@LIST
@click.argument("kind", type=click.Choice(["identity", "certified"]))
@click.argument("identities", nargs=-1, required=True)
@click.pass_context
def remove(ctx: click.Context, /, which: str, kind: str, identities: tuple[str, ...]) -> None:
    """Take node ids from a list."""
    ids = _ids(kind, identities)

    def change(listed: AccessList) -> AccessList:
        for identity in ids:
            if identity not in listed.identity:
                raise NotFound(f"{identity} is not on the list {which}")
        left = [identity for identity in listed.identity if identity not in ids]
        return msgspec.structs.replace(listed, identity=left)

    _change(ctx, which, change)


@rule.command()
@LIST
@click.pass_context
def enable(ctx: click.Context, /, which: str) -> None:
    """Apply a list."""
    _change(ctx, which, lambda listed: msgspec.structs.replace(listed, enabled=True))


@rule.command()
@LIST
@click.pass_context
def disable(ctx: click.Context, /, which: str) -> None:
    """Apply a list no longer."""
    _change(ctx, which, lambda listed: msgspec.structs.replace(listed, enabled=False))


def _ids(kind: str, identities: tuple[str, ...]) -> list[str]:
    if kind == "certified":
        raise NotSupported("rules about certificates are not supported yet")
    return [str(parse_node_id(identity)) for identity in identities]


def _change(ctx: click.Context, which: str, change: Callable[[AccessList], AccessList]) -> None:
    if which not in LISTS:
        raise NotSupported("rules about the network of activities are not supported yet")
    directory = here(ctx)
    with changing(directory):
        access = load_access(directory)
        save_access(directory, access.changed(which, change(access.of(which))))
