"""`shem provider profile`: how much of this machine is offered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from shem.cli.ask import show_json, show_table
from shem.cli.provider_rows import here, json_option, wants_json
from shem.kernel.errors import UsageError
from shem.provider.files import changing
from shem.provider.hardware import (
    Profile,
    Profiles,
    Share,
    default_profiles,
    load_profiles,
    measure,
    save_profiles,
)

AMOUNTS = ("cpu_threads", "mem_gib", "storage_gib")
SHARES = ("share_cpu_threads", "share_mem_gib", "share_storage_gib")

Command = Callable[..., Any]


def amount_options(command: Command) -> Command:
    """Add the amounts of a profile."""
    for option in (
        click.option(
            "--exclusive-threads/--shared-threads",
            default=None,
            help="Whether each agreement has threads of its own [shared].",
        ),
        click.option("--share-storage-gib", type=float, help="Storage of one agreement."),
        click.option("--share-mem-gib", type=float, help="Memory of one agreement."),
        click.option("--share-cpu-threads", type=int, help="Threads of one agreement."),
        click.option("--storage-gib", type=float, help="Storage of all agreements."),
        click.option("--mem-gib", type=float, help="Memory of all agreements."),
        click.option("--cpu-threads", type=int, help="Threads of all agreements."),
    ):
        command = option(command)
    return command


@click.group()
def profile() -> None:
    """How much of this machine is offered: to all agreements together, and to one."""


@profile.command("list")
@json_option
@click.pass_context
def list_profiles(ctx: click.Context, /, as_json: bool) -> None:
    """List all profiles."""
    found = _load(here(ctx))
    if wants_json(ctx, as_json):
        show_json(msgspec.to_builtins(found))
        return
    rows: list[dict[str, object]] = [
        {
            "name": name,
            "active": "yes" if name == found.active else "no",
            "threads": _both(one.cpu_threads, one.per_agreement, "cpu_threads"),
            "memory": _both(one.mem_gib, one.per_agreement, "mem_gib"),
            "storage": _both(one.storage_gib, one.per_agreement, "storage_gib"),
            "threads are": "exclusive" if one.exclusive_threads else "shared",
        }
        for name, one in found.profiles.items()
    ]
    show_table(["name", "active", "threads", "memory", "storage", "threads are"], rows)


@profile.command("active")
@json_option
@click.pass_context
def show_active(ctx: click.Context, /, as_json: bool) -> None:
    """Say which profile is in use."""
    active = _load(here(ctx)).active
    if wants_json(ctx, as_json):
        show_json(active)
    else:
        click.echo(active)


@profile.command()
@click.argument("name")
@amount_options
@click.pass_context
def create(ctx: click.Context, /, name: str, **options: Any) -> None:
    """Make a profile; it is used once it is activated."""
    if any(options[key] is None for key in AMOUNTS):
        raise UsageError("a profile needs --cpu-threads, --mem-gib and --storage-gib")
    made = Profile(**{key: options[key] for key in AMOUNTS})
    _change(ctx, lambda profiles: profiles.created(name, _changed(made, options)))


@profile.command()
@click.argument("name")
@amount_options
@click.pass_context
def update(ctx: click.Context, /, name: str, **options: Any) -> None:
    """Change a profile; what is not named stays. Running agreements keep what they have."""
    if all(value is None for value in options.values()):
        raise UsageError("name something to change, such as --mem-gib")
    _change(ctx, lambda profiles: profiles.updated(name, _changed(profiles.get(name), options)))


@profile.command()
@click.argument("name")
@click.pass_context
def remove(ctx: click.Context, /, name: str) -> None:
    """Remove a profile that is not in use."""
    _change(ctx, lambda profiles: profiles.removed(name))


@profile.command()
@click.argument("name")
@click.pass_context
def activate(ctx: click.Context, /, name: str) -> None:
    """Use a profile."""
    _change(ctx, lambda profiles: profiles.activated(name))


def _changed(old: Profile, options: dict[str, Any]) -> Profile:
    changes = {key: options[key] for key in AMOUNTS if options[key] is not None}
    if options["exclusive_threads"] is not None:
        changes["exclusive_threads"] = options["exclusive_threads"]
    shares = [options[key] for key in SHARES]
    if any(share is not None for share in shares):
        before = old.per_agreement
        known = [None if before is None else getattr(before, key) for key in AMOUNTS]
        values: list[Any] = [
            new if new is not None else kept for new, kept in zip(shares, known, strict=True)
        ]
        if any(value is None for value in values):
            raise UsageError(
                "one agreement's share needs all of --share-cpu-threads, --share-mem-gib and "
                "--share-storage-gib"
            )
        changes["per_agreement"] = Share(*values)
    return msgspec.structs.replace(old, **changes)


def _load(directory: Path) -> Profiles:
    found = load_profiles(directory)
    return default_profiles(measure(directory)) if found is None else found


def _change(ctx: click.Context, change: Callable[[Profiles], Profiles]) -> None:
    directory = here(ctx)
    with changing(directory):
        save_profiles(directory, change(_load(directory)))


def _both(total: float, share: Share | None, key: str) -> str:
    return f"{total:g}" if share is None else f"{total:g} ({getattr(share, key):g} each)"
