"""`shem provider preset`: what is offered at which price."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from shem.cli.ask import show_json, show_table
from shem.cli.provider_rows import here, json_option, runtimes, wants_json
from shem.kernel.errors import NotFound, UsageError
from shem.provider.descriptor import Descriptor
from shem.provider.files import changing
from shem.provider.presets import Preset, Presets, load_presets, save_presets
from shem.provider.pricing import parse_prices
from shem.provider.settings import new_presets

Command = Callable[..., Any]


def preset_options(command: Command) -> Command:
    """Add what create and update have in common."""
    for option in (
        click.option("--price", "prices", multiple=True, help="NAME=GLM; NAME is a counter, …"),
        click.option("--pricing", type=click.Choice(["linear"]), help="The pricing model."),
        click.option("--exe-unit", help="The runtime that is offered."),
        click.option("--preset-name", help="The name of the preset."),
        click.option("--no-interactive", is_flag=True, help="Taken for compatibility."),
    ):
        command = option(command)
    return command


@click.group()
def preset() -> None:
    """What is offered at which price; one Offer for each active preset."""


@preset.command("list")
@json_option
@click.pass_context
def list_presets(ctx: click.Context, /, as_json: bool) -> None:
    """List all presets."""
    _show(ctx, _load(here(ctx)), as_json, only_active=False)


@preset.command("active")
@json_option
@click.pass_context
def list_active(ctx: click.Context, /, as_json: bool) -> None:
    """List the presets that are offered."""
    _show(ctx, _load(here(ctx)), as_json, only_active=True)


@preset.command()
@preset_options
@click.pass_context
def create(ctx: click.Context, /, **options: Any) -> None:
    """Make a preset: --preset-name x --exe-unit wasmtime --price cpu=0.0001.

    Counters without a price cost nothing. It is offered once it is activated.
    """
    name, runtime = options["preset_name"], options["exe_unit"]
    if name is None or runtime is None:
        raise UsageError("a preset needs --preset-name and --exe-unit")
    descriptor = _runtime(runtime)
    initial, prices = parse_prices(options["prices"], descriptor.short_names)
    made = Preset(
        name=name,
        exeunit_name=runtime,
        initial_price=initial or 0.0,
        usage_coeffs={**dict.fromkeys(descriptor.priced, 0.0), **prices},
    )
    _change(ctx, lambda presets: presets.created(made))


@preset.command()
@click.argument("names", nargs=-1)
@click.option("--name", "named", multiple=True, help="The preset to change.")
@click.option("--all", "all_", is_flag=True, help="Change all presets.")
@preset_options
@click.pass_context
def update(ctx: click.Context, /, names: tuple[str, ...], **options: Any) -> None:
    """Change presets: other prices, another runtime, another name."""
    chosen = (*names, *options["named"])
    if bool(chosen) is options["all_"]:
        raise UsageError("name the presets to change, or say --all")

    def change(presets: Presets) -> Presets:
        targets = chosen or tuple(found.name for found in presets.all)
        if options["preset_name"] is not None and len(targets) != 1:
            raise UsageError("--preset-name: only one preset can have a name")
        for name in targets:
            presets = presets.updated(name, _changes(presets.get(name), options))
        return presets

    _change(ctx, change)


@preset.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def remove(ctx: click.Context, /, names: tuple[str, ...]) -> None:
    """Remove presets; agreements that were made on them go on."""
    _change_each(ctx, names, Presets.removed)


@preset.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def activate(ctx: click.Context, /, names: tuple[str, ...]) -> None:
    """Offer presets."""
    _change_each(ctx, names, Presets.activated)


@preset.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_context
def deactivate(ctx: click.Context, /, names: tuple[str, ...]) -> None:
    """Offer presets no longer; agreements that were made on them go on."""
    _change_each(ctx, names, Presets.deactivated)


def _changes(old: Preset, options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that an update names; other prices stay."""
    runtime = options["exe_unit"] or old.exeunit_name
    changes: dict[str, Any] = {}
    if options["preset_name"] is not None:
        changes["name"] = options["preset_name"]
    if options["exe_unit"] is not None:
        changes["exeunit_name"] = _runtime(runtime).name
    if options["prices"]:
        initial, prices = parse_prices(options["prices"], _runtime(runtime).short_names)
        changes["usage_coeffs"] = {**old.usage_coeffs, **prices}
        if initial is not None:
            changes["initial_price"] = initial
    if not changes and options["pricing"] is None:
        raise UsageError("name something to change: --price, --exe-unit or --preset-name")
    return changes


def _runtime(name: str) -> Descriptor:
    there = {descriptor.name: descriptor for descriptor in runtimes(None)}
    if name not in there:
        raise NotFound(f"--exe-unit: there is no runtime {name!r} (there are: {', '.join(there)})")
    return there[name]


def _load(directory: Path) -> Presets:
    found = load_presets(directory)
    return new_presets(runtimes(None)) if found is None else found


def _change_each(
    ctx: click.Context, names: tuple[str, ...], change: Callable[[Presets, str], Presets]
) -> None:
    def each(presets: Presets) -> Presets:
        for name in names:
            presets = change(presets, name)
        return presets

    _change(ctx, each)


def _change(ctx: click.Context, change: Callable[[Presets], Presets]) -> None:
    directory = here(ctx)
    with changing(directory):
        save_presets(directory, change(_load(directory)))


def _show(ctx: click.Context, presets: Presets, as_json: bool, *, only_active: bool) -> None:
    shown = presets.offered if only_active else presets.all
    rows: list[dict[str, object]] = [
        {**msgspec.to_builtins(found), "active": found.name in presets.active} for found in shown
    ]
    if wants_json(ctx, as_json):
        show_json(rows)
        return
    texts: list[dict[str, object]] = [
        {
            "name": found.name,
            "exe-unit": found.exeunit_name,
            "active": "yes" if found.name in presets.active else "no",
            "prices": ", ".join(f"{key}={price:g}" for key, price in found.usage_coeffs.items()),
            "initial": f"{found.initial_price:g}",
        }
        for found in shown
    ]
    show_table(["name", "exe-unit", "active", "prices", "initial"], texts)
