"""`shem provider`: the agent, and the files that it follows (docs/protocol/provider-agent.md §2.3).

The verbs and options are those of the known provider agent; every one prints JSON with `--json`. A
running agent notices a change within seconds.
"""

from typing import Any

import click

from shem.cli.ask import show_fields, show_json, show_table
from shem.cli.provider_keystore import keystore
from shem.cli.provider_presets import preset
from shem.cli.provider_profiles import profile
from shem.cli.provider_rows import (
    certificates_of,
    here,
    json_option,
    runtime_row,
    runtimes,
    wants_json,
)
from shem.cli.provider_rules import rule
from shem.cli.provider_whitelist import whitelist
from shem.kernel.errors import UsageError
from shem.provider.command import CERT_DIR, DATA_DIR, run
from shem.provider.config import DEFAULT_DATA_DIR, DEFAULT_SUBNET, load_globals, save_globals
from shem.provider.files import changing

FIELDS = ("node_name", "subnet", "account")


@click.group()
@click.option("--data-dir", help=f"Where the agent keeps its state [DATA_DIR, {DEFAULT_DATA_DIR}].")
@click.option(
    "--cert-dir", help="Where certificates are [PROVIDER_CERT_DIR, cert-dir in the data directory]."
)
@click.pass_context
def provider(ctx: click.Context, /, data_dir: str | None, cert_dir: str | None) -> None:
    """Run the provider agent, and say what it offers."""
    ctx.meta[DATA_DIR] = data_dir
    ctx.meta[CERT_DIR] = cert_dir


provider.add_command(run)
provider.add_command(preset)
provider.add_command(profile)
provider.add_command(rule)
provider.add_command(whitelist)
provider.add_command(keystore)


@provider.group()
def config() -> None:
    """Who the provider is: its name, subnet and account."""


@config.command("get")
@click.argument("name", required=False)
@json_option
@click.pass_context
def get_config(ctx: click.Context, /, name: str | None, as_json: bool) -> None:
    """Show the settings, or one of them."""
    found = load_globals(here(ctx))
    shown: dict[str, object] = {
        "node_name": found.node_name,
        "subnet": found.subnet or DEFAULT_SUBNET,
        "account": found.address,
    }
    if name is not None:
        key = name.replace("-", "_")
        if key not in shown:
            raise UsageError(f"there is no setting {name!r} (there are: {', '.join(FIELDS)})")
        shown = {key: shown[key]}
    if wants_json(ctx, as_json):
        show_json(shown)
    else:
        show_fields(shown)


@config.command("set")
@click.option("--node-name", help="How the provider calls itself.")
@click.option("--subnet", help="The subnet to offer in.")
@click.option("--account", help="Where payments go, instead of the node's id.")
@click.pass_context
def set_config(ctx: click.Context, /, **options: str | None) -> None:
    """Change settings; those that are not named stay as they are."""
    import msgspec

    from shem.kernel.ids import parse_node_id

    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if not changes:
        raise UsageError("name something to set: --node-name, --subnet or --account")
    if "account" in changes:
        changes["account"] = str(parse_node_id(changes["account"]))
    directory = here(ctx)
    with changing(directory):
        save_globals(directory, msgspec.structs.replace(load_globals(directory), **changes))


@provider.group("exe-unit")
def exe_unit() -> None:
    """The runtimes that can be offered."""


@exe_unit.command("list")
@click.option("--exe-unit-path", help="Runtime descriptors [EXE_UNIT_PATH, the built-in ones].")
@json_option
@click.pass_context
def list_exe_units(ctx: click.Context, /, exe_unit_path: str | None, as_json: bool) -> None:
    """List the runtimes and what they measure."""
    rows = [runtime_row(descriptor) for descriptor in runtimes(exe_unit_path)]
    if wants_json(ctx, as_json):
        show_json(rows)
        return
    texts: list[dict[str, object]] = [
        {**row, "counters": ", ".join(row["counters"].values())} for row in rows
    ]
    show_table(["name", "version", "counters", "description"], texts)


@provider.command("self-test")
@click.option("--exe-unit-path", help="Runtime descriptors [EXE_UNIT_PATH, the built-in ones].")
@json_option
@click.pass_context
def self_test(ctx: click.Context, /, exe_unit_path: str | None, as_json: bool) -> None:
    """Read the files, try the runtimes, and say what would be offered."""
    from shem.cli.provider_status import self_test_of

    shown = self_test_of(here(ctx), certificates_of(ctx), runtimes(exe_unit_path))
    if wants_json(ctx, as_json):
        show_json(shown)
    else:
        show_fields({name: ", ".join(words) or None for name, words in shown.items()})


@provider.command("pre-install")
@click.option("--exe-unit-path", help="Runtime descriptors [EXE_UNIT_PATH, the built-in ones].")
@click.pass_context
def pre_install(ctx: click.Context, /, exe_unit_path: str | None) -> None:
    """Make the files that are not there yet: a preset for each runtime, a hardware profile."""
    from shem.provider.hardware import measure
    from shem.provider.settings import load_settings

    directory = here(ctx)
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    load_settings(directory, runtimes(exe_unit_path), measure(directory), certificates_of(ctx))


@provider.command()
@click.argument("age", default="30d")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and leave it.")
@json_option
@click.pass_context
def clean(ctx: click.Context, /, age: str, dry_run: bool, as_json: bool) -> None:
    """Remove files of activities and images that are older than AGE and no longer needed."""
    from shem.cli.provider_clean import clean_now
    from shem.provider.durations import parse_duration

    age_s = parse_duration(age, "AGE")
    found = clean_now(here(ctx), age_s=age_s, dry_run=dry_run)
    rows: list[dict[str, object]] = [{"path": str(old.path), "size": old.size} for old in found]
    if wants_json(ctx, as_json):
        show_json(rows)
    elif rows:
        show_table(["size", "path"], rows)


@provider.command()
@json_option
@click.pass_context
def status(ctx: click.Context, /, as_json: bool) -> None:
    """Show whether the agent runs, what it offers, and what is promised to whom."""
    from shem.cli.provider_status import agreements_of, status_of

    directory = here(ctx)
    shown, agreements = status_of(directory), agreements_of(directory)
    if wants_json(ctx, as_json):
        show_json({**shown, "agreements": agreements})
        return
    show_fields({**shown, "presets": ", ".join(shown["presets"] or ()) or None})
    if agreements:
        click.echo()
        columns = ["agreement", "state", "runtime", "threads", "memory", "storage", "activities"]
        show_table(columns, agreements)
