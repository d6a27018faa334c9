"""`shem provider rule set outbound`: what programs may reach of the internet."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from shem.cli.provider_rows import certificates_of, here
from shem.kernel.errors import UsageError
from shem.provider import keystore
from shem.provider.access import Access, Grant, GrantName, Mode, load_access, save_access
from shem.provider.certificates import NotSound
from shem.provider.files import changing
from shem.provider.keystore import GOLEM, X509, leaf_ids, load_keystore, read_entries

KINDS: Final[dict[GrantName, str]] = {"audited-payload": X509, "partner": GOLEM}
MODE = click.option(
    "-m",
    "--mode",
    type=click.Choice([*map(str, Mode)]),
    required=True,
    help="Everything, nothing, or the domains of the whitelist.",
)


@click.group()
def outbound() -> None:
    """What programs may reach of the internet."""


@outbound.command("enable")
@click.pass_context
def enable_outbound(ctx: click.Context, /) -> None:
    """Let programs reach what the rules grant."""
    switch_outbound(here(ctx), enabled=True)


@outbound.command("disable")
@click.pass_context
def disable_outbound(ctx: click.Context, /) -> None:
    """Let no program reach anything."""
    switch_outbound(here(ctx), enabled=False)


@outbound.command()
@MODE
@click.pass_context
def everyone(ctx: click.Context, /, mode: str) -> None:
    """What programs of any requestor may reach."""
    directory = here(ctx)
    with changing(directory):
        found = load_access(directory)
        changed = msgspec.structs.replace(found.outbound, everyone=Mode(mode))
        save_access(directory, found.reaching(changed))


@outbound.group("audited-payload")
def audited_payload() -> None:
    """What may be reached by manifests that an X.509 certificate has signed."""


@outbound.group("partner")
def partner() -> None:
    """What may be reached by requestors that a Golem certificate vouches for."""


@audited_payload.command("cert-id")
@click.argument("cert_id")
@MODE
@click.pass_context
def audited_by_id(ctx: click.Context, /, cert_id: str, mode: str) -> None:
    """Set it for a certificate of the keystore, by its id or the beginning of it."""
    _grant_known(ctx, "audited-payload", cert_id, mode)


@audited_payload.command("import-cert")
@click.argument("file", type=click.Path(path_type=Path))
@MODE
@click.pass_context
def audited_by_file(ctx: click.Context, /, file: Path, mode: str) -> None:
    """Add a certificate or a chain to the keystore, and set it for the last of the chain."""
    _grant_new(ctx, "audited-payload", file, mode)


@partner.command("cert-id")
@click.argument("cert_id")
@MODE
@click.pass_context
def partner_by_id(ctx: click.Context, /, cert_id: str, mode: str) -> None:
    """Set it for a certificate of the keystore, by its id or the beginning of it."""
    _grant_known(ctx, "partner", cert_id, mode)


@partner.command("import-cert")
@click.argument("file", type=click.Path(path_type=Path))
@MODE
@click.pass_context
def partner_by_file(ctx: click.Context, /, file: Path, mode: str) -> None:
    """Add a certificate to the keystore, and set it for that."""
    _grant_new(ctx, "partner", file, mode)


def switch_outbound(directory: Path, *, enabled: bool) -> None:
    with changing(directory):
        found = load_access(directory)
        save_access(
            directory, found.reaching(msgspec.structs.replace(found.outbound, enabled=enabled))
        )


def known_certificate(cert_dir: Path, prefix: str, kind: str) -> str:
    """Return the id of a certificate of the keystore that rules of this kind may name."""
    found = load_keystore(cert_dir).get(prefix)
    if found.kind != kind:
        raise UsageError(f"{prefix} is a certificate of {found.kind}; this rule takes {kind}")
    return found.id


def import_certificates(cert_dir: Path, file: Path, kind: str) -> Sequence[str]:
    """Add a file to the keystore; return the certificates that a rule about it means."""
    try:
        entries = read_entries(file)
    except NotSound as error:
        raise UsageError(f"{file}: {error.message}") from error
    for found in {entry.kind for entry in entries} - {kind}:
        raise UsageError(f"{file} holds a certificate of {found}; this rule takes {kind}")
    keystore.add(cert_dir, file, time.time_ns())
    return leaf_ids(entries)


def _grant_known(ctx: click.Context, name: GrantName, prefix: str, mode: str) -> None:
    directory = here(ctx)
    with changing(directory):
        certificate = known_certificate(certificates_of(ctx), prefix, KINDS[name])
        save_access(directory, _granted(load_access(directory), name, [certificate], mode))


def _grant_new(ctx: click.Context, name: GrantName, file: Path, mode: str) -> None:
    directory = here(ctx)
    with changing(directory):
        access = load_access(directory)
        ids = import_certificates(certificates_of(ctx), file, KINDS[name])
        save_access(directory, _granted(access, name, ids, mode))


def _granted(access: Access, name: GrantName, ids: Sequence[str], mode: str) -> Access:
    before = access.outbound.of(name)
    new = {
        found: Grant(Mode(mode), before[found].description if found in before else "")
        for found in ids
    }
    return access.reaching(access.outbound.changed(name, {**before, **new}))
