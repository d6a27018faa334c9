"""`shem provider rule`: who may rent here, and what programs may reach."""

from collections.abc import Callable

import click
import msgspec

from shem.cli.ask import show_json, show_table
from shem.cli.provider_rows import here, json_option, wants_json
from shem.kernel.errors import NotFound, NotSupported
from shem.kernel.ids import parse_node_id
from shem.provider.access import (
    LISTS,
    Access,
    AccessList,
    ListName,
    Mode,
    load_access,
    save_access,
)
from shem.provider.files import changing

LIST = click.argument("which", type=click.Choice([*LISTS]))
CATEGORY = click.argument("which", type=click.Choice([*LISTS, "outbound"]))
MODE = click.option(
    "-m", "--mode", type=click.Choice([*map(str, Mode)]), required=True, help="How far."
)


@click.group()
def rule() -> None:
    """Who may rent here, and what programs may reach of the internet."""


@rule.command("list")
@json_option
@click.pass_context
def list_rules(ctx: click.Context, /, as_json: bool) -> None:
    """List the rules."""
    found = load_access(here(ctx))
    if wants_json(ctx, as_json):
        show_json(msgspec.to_builtins(found))
        return
    outbound = found.outbound
    click.echo(f"Outbound: {_state(outbound.enabled)}")
    rows: list[dict[str, object]] = [{"rule": "Everyone", "mode": str(outbound.everyone)}]
    show_table(["rule", "mode", "certificate", "description"], rows)
    for name in LISTS:
        listed = found.of(name)
        click.echo(f"\n{name.capitalize()}: {_state(listed.enabled)}")
        show_table(["rule", "node"], [{"rule": "Identity", "node": one} for one in listed.identity])


def _state(enabled: bool) -> str:
    return "enabled" if enabled else "disabled"


@rule.command()
@LIST
@click.argument("kind", type=click.Choice(["identity", "certified"]))
@click.argument("identities", nargs=-1, required=True)
@click.pass_context
def add(ctx: click.Context, /, which: ListName, kind: str, identities: tuple[str, ...]) -> None:
    """Put node ids on a list."""
    ids = _ids(kind, identities)

    def change(listed: AccessList) -> AccessList:
        new = [identity for identity in ids if identity not in listed.identity]
        return msgspec.structs.replace(listed, identity=[*listed.identity, *new])

    _change_list(ctx, which, change)


@rule.command()
@LIST
@click.argument("kind", type=click.Choice(["identity", "certified"]))
@click.argument("identities", nargs=-1, required=True)
@click.pass_context
def remove(ctx: click.Context, /, which: ListName, kind: str, identities: tuple[str, ...]) -> None:
    """Take node ids from a list."""
    ids = _ids(kind, identities)

    def change(listed: AccessList) -> AccessList:
        for identity in ids:
            if identity not in listed.identity:
                raise NotFound(f"{identity} is not on the list {which}")
        left = [identity for identity in listed.identity if identity not in ids]
        return msgspec.structs.replace(listed, identity=left)

    _change_list(ctx, which, change)


@rule.command()
@CATEGORY
@click.pass_context
def enable(ctx: click.Context, /, which: str) -> None:
    """Apply a list, or let programs reach what the outbound rules grant."""
    _switch(ctx, which, enabled=True)


@rule.command()
@CATEGORY
@click.pass_context
def disable(ctx: click.Context, /, which: str) -> None:
    """Apply a list no longer, or let no program reach anything."""
    _switch(ctx, which, enabled=False)


@rule.group("set")
def set_rule() -> None:
    """Say how far a rule goes."""


@set_rule.group("outbound")
def outbound() -> None:
    """What programs may reach of the internet."""


@outbound.command("enable")
@click.pass_context
def enable_outbound(ctx: click.Context, /) -> None:
    """Let programs reach what the rules grant."""
    _switch(ctx, "outbound", enabled=True)


@outbound.command("disable")
@click.pass_context
def disable_outbound(ctx: click.Context, /) -> None:
    """Let no program reach anything."""
    _switch(ctx, "outbound", enabled=False)


@outbound.command()
@MODE
@click.pass_context
def everyone(ctx: click.Context, /, mode: str) -> None:
    """What programs of any requestor may reach."""
    _change(
        ctx,
        lambda found: found.reaching(msgspec.structs.replace(found.outbound, everyone=Mode(mode))),
    )


def _switch(ctx: click.Context, which: str, *, enabled: bool) -> None:
    def change(found: Access) -> Access:
        if which == "outbound":
            return found.reaching(msgspec.structs.replace(found.outbound, enabled=enabled))
        name: ListName = "blacklist" if which == "blacklist" else "allow-only"
        return found.changed(name, msgspec.structs.replace(found.of(name), enabled=enabled))

    _change(ctx, change)


def _ids(kind: str, identities: tuple[str, ...]) -> list[str]:
    if kind == "certified":
        raise NotSupported("rules about certificates are not supported yet")
    return [str(parse_node_id(identity)) for identity in identities]


def _change_list(
    ctx: click.Context, which: ListName, change: Callable[[AccessList], AccessList]
) -> None:
    _change(ctx, lambda found: found.changed(which, change(found.of(which))))


def _change(ctx: click.Context, change: Callable[[Access], Access]) -> None:
    directory = here(ctx)
    with changing(directory):
        save_access(directory, change(load_access(directory)))
