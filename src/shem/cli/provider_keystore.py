"""`shem provider keystore`: the certificates that rules may name."""

import time
from collections.abc import Sequence
from pathlib import Path

import click

from shem.cli.ask import show_json, show_table
from shem.cli.provider_rows import certificates_of, here, json_option, wants_json
from shem.kernel import times
from shem.kernel.errors import UsageError
from shem.provider import keystore as store
from shem.provider.access import Access, load_access
from shem.provider.files import changing
from shem.provider.keystore import Entry, load_keystore, short_ids

COLUMNS = ("ID", "Type", "Not After", "Subject", "Rules")


@click.group()
def keystore() -> None:
    """Certificates that rules may name: Golem's own, and X.509 (PEM or DER)."""


@keystore.command("list")
@json_option
@click.pass_context
def list_certificates(ctx: click.Context, /, as_json: bool) -> None:
    """List the certificates and the rules about them."""
    found = load_keystore(certificates_of(ctx))
    _show(ctx, found.entries, as_json=as_json)
    for reason in found.passed_over:
        click.echo(f"no certificate: {reason}", err=True)


@keystore.command()
@click.argument("certs", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
@click.pass_context
def add(ctx: click.Context, /, certs: tuple[Path, ...], as_json: bool) -> None:
    """Add certificates, or chains of them, from files; those that are there already stay."""
    directory = here(ctx)
    added: list[Entry] = []
    problems: list[str] = []
    with changing(directory):
        for path in certs:
            try:
                added += store.add(certificates_of(ctx), path, time.time_ns())
            except UsageError as error:
                problems.append(error.message)
    _show(ctx, added, as_json=as_json)
    if problems:
        raise UsageError("; ".join(problems))


@keystore.command()
@click.argument("ids", nargs=-1, required=True)
@json_option
@click.pass_context
def remove(ctx: click.Context, /, ids: tuple[str, ...], as_json: bool) -> None:
    """Remove certificates by their ids, or the beginnings of them.

    Rules about them are not applied any longer.
    """
    directory = here(ctx)
    with changing(directory):
        found = load_keystore(certificates_of(ctx))
        gone = [found.get(prefix) for prefix in ids]
        store.remove(certificates_of(ctx), [entry.id for entry in gone])
    _show(ctx, gone, as_json=as_json)


def rules_about(access: Access, certificate: str) -> str:
    """Return the names of the rules about a certificate."""
    about = {
        "Outbound-Partner": access.outbound.partner,
        "Outbound-AuditedPayload": access.outbound.audited_payload,
        "Blacklist": access.blacklist.certified,
        "AllowOnly": access.allow_only.certified,
    }
    return " | ".join(name for name, listed in about.items() if certificate in listed)


def _show(ctx: click.Context, entries: Sequence[Entry], *, as_json: bool) -> None:
    access = load_access(here(ctx))
    shorts = short_ids([entry.id for entry in entries])
    rows: list[dict[str, object]] = [
        dict(
            zip(
                COLUMNS,
                (
                    shorts[entry.id],
                    entry.kind,
                    times.to_rfc3339(entry.validity.until_ns),
                    entry.subject,
                    rules_about(access, entry.id),
                ),
                strict=True,
            )
        )
        for entry in entries
    ]
    if wants_json(ctx, as_json):
        show_json(rows)
    else:
        show_table([*COLUMNS], [{**row, "Subject": _text(row["Subject"])} for row in rows])


def _text(subject: object) -> str:
    if isinstance(subject, dict):
        return ", ".join(f"{name}={value}" for name, value in subject.items())
    return str(subject)
