"""What the commands of `shem provider` have in common."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from shem.cli.main import Options
from shem.kernel.config import setting
from shem.provider.command import CERT_DIR, DATA_DIR, data_dir_of
from shem.provider.descriptor import Descriptor, load_descriptors
from shem.provider.keystore import cert_dir_of

Command = Callable[..., Any]


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def wants_json(ctx: click.Context, as_json: bool) -> bool:
    """Whether JSON was asked for, before the verb or after it."""
    return as_json or (isinstance(ctx.obj, Options) and ctx.obj.json)


def here(ctx: click.Context) -> Path:
    """Return the provider's data directory."""
    return data_dir_of(ctx.meta.get(DATA_DIR))


def certificates_of(ctx: click.Context) -> Path:
    """Return the directory of certificates."""
    return cert_dir_of(here(ctx), ctx.meta.get(CERT_DIR))


def runtimes(path: str | None) -> Sequence[Descriptor]:
    """Return the runtimes that presets can name."""
    return load_descriptors(path or setting("EXE_UNIT_PATH", "EXE_UNIT_PATH"))


def runtime_row(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "name": descriptor.name,
        "version": descriptor.version,
        "description": descriptor.description,
        "counters": {name: counter.name for name, counter in descriptor.counters.items()},
    }
