"""`shem provider rule`: who may rent here, and what programs may reach."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from shem.cli.ask import show_json, show_table
from shem.cli.provider_outbound import (
    import_certificates,
    known_certificate,
    outbound,
    switch_outbound,
)
from shem.cli.provider_rows import certificates_of, here, json_option, wants_json
from shem.kernel.errors import NotFound, UsageError
from shem.kernel.ids import parse_node_id
from shem.provider.access import (
    GRANTS,
    LISTS,
    Access,
    AccessList,
    ListName,
    load_access,
    save_access,
)
from shem.provider.files import changing
from shem.provider.keystore import GOLEM, load_keystore, short_ids

GRANT_TITLES = {"audited-payload": "AuditedPayload", "partner": "Partner"}
LIST = click.argument("which", type=click.Choice([*LISTS]))
KIND = click.argument("kind", type=click.Choice(["identity", "certified"]))
WORDS = click.argument("words", nargs=-1, required=True, metavar="ADDRESS... | HOW CERTIFICATE")


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
    subjects = {entry.id: entry.subject for entry in load_keystore(certificates_of(ctx)).entries}
    click.echo(f"Outbound: {_state(found.outbound.enabled)}")
    show_table(["rule", "mode", "certificate", "description"], _grant_rows(found, subjects))
    for name in LISTS:
        click.echo(f"\n{name.capitalize()}: {_state(found.of(name).enabled)}")
        rows = _list_rows(found.of(name), subjects)
        show_table(["rule", "node", "certificate", "description"], rows)


@rule.command()
@LIST
@KIND
@WORDS
@click.pass_context
def add(ctx: click.Context, /, which: ListName, kind: str, words: tuple[str, ...]) -> None:
    """Put node ids on a list, or a Golem certificate.

    `rule add blacklist identity 0x…`, `rule add allow-only certified cert-id ID`,
    `rule add allow-only certified import-cert FILE`.
    """
    directory = here(ctx)
    field = "identity" if kind == "identity" else "certified"
    with changing(directory):
        found = load_access(directory)
        new = _ids(words) if kind == "identity" else _certificates(certificates_of(ctx), words)
        listed = found.of(which)
        known: list[str] = getattr(listed, field)
        after = [*known, *(one for one in new if one not in known)]
        save_access(directory, found.changed(which, _with(listed, field, after)))


@rule.command()
@LIST
@KIND
@WORDS
@click.pass_context
def remove(ctx: click.Context, /, which: ListName, kind: str, words: tuple[str, ...]) -> None:
    """Take node ids from a list, or a certificate by its id or the beginning of it.

    `rule remove blacklist identity 0x…`, `rule remove blacklist certified cert-id ID`.
    """
    directory = here(ctx)
    field = "identity" if kind == "identity" else "certified"
    with changing(directory):
        found = load_access(directory)
        known: list[str] = getattr(found.of(which), field)
        gone = _ids(words) if kind == "identity" else _listed(known, _one_id(words), which)
        for one in gone:
            if one not in known:
                raise NotFound(f"{one} is not on the list {which}")
        left = [one for one in known if one not in gone]
        save_access(directory, found.changed(which, _with(found.of(which), field, left)))


@rule.command()
@click.argument("which", type=click.Choice([*LISTS, "outbound"]))
@click.pass_context
def enable(ctx: click.Context, /, which: str) -> None:
    """Apply a list, or let programs reach what the outbound rules grant."""
    _switch(here(ctx), which, enabled=True)


@rule.command()
@click.argument("which", type=click.Choice([*LISTS, "outbound"]))
@click.pass_context
def disable(ctx: click.Context, /, which: str) -> None:
    """Apply a list no longer, or let no program reach anything."""
    _switch(here(ctx), which, enabled=False)


@rule.group("set")
def set_rule() -> None:
    """Say how far a rule goes."""


set_rule.add_command(outbound)


def _switch(directory: Path, which: str, *, enabled: bool) -> None:
    if which == "outbound":
        switch_outbound(directory, enabled=enabled)
        return
    name: ListName = "blacklist" if which == "blacklist" else "allow-only"
    with changing(directory):
        found = load_access(directory)
        listed = msgspec.structs.replace(found.of(name), enabled=enabled)
        save_access(directory, found.changed(name, listed))


def _with(listed: AccessList, field: str, values: Sequence[str]) -> AccessList:
    return msgspec.structs.replace(listed, **{field: list(values)})


def _ids(words: Sequence[str]) -> list[str]:
    return [str(parse_node_id(word)) for word in words]


def _certificates(cert_dir: Path, words: Sequence[str]) -> Sequence[str]:
    """Return the certificates that a command names, added to the keystore where it says so."""
    if len(words) == 2 and words[0] == "import-cert":
        return import_certificates(cert_dir, Path(words[1]), GOLEM)
    return [known_certificate(cert_dir, _one_id(words), GOLEM)]


def _one_id(words: Sequence[str]) -> str:
    if len(words) != 2 or words[0] != "cert-id":
        raise UsageError("name the certificate: certified cert-id ID (or import-cert FILE, to add)")
    return words[1]


def _listed(known: Sequence[str], prefix: str, which: str) -> list[str]:
    """Return the one listed certificate that begins so; it need not be in the keystore."""
    found = [one for one in known if one.startswith(prefix.lower())]
    if not found:
        raise NotFound(f"no certificate {prefix!r} is on the list {which}")
    if len(found) > 1:
        raise UsageError(f"several certificates begin with {prefix!r}: give more of the id")
    return found


def _grant_rows(found: Access, subjects: "Subjects") -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"rule": "Everyone", "mode": str(found.outbound.everyone)}]
    for name in GRANTS:
        grants = found.outbound.of(name)
        shorts = short_ids([*grants])
        rows += [
            {
                "rule": GRANT_TITLES[name],
                "mode": str(grant.mode),
                "certificate": shorts[certificate],
                "description": grant.description or subjects.get(certificate),
            }
            for certificate, grant in grants.items()
        ]
    return rows


def _list_rows(listed: AccessList, subjects: "Subjects") -> list[dict[str, object]]:
    shorts = short_ids(listed.certified)
    rows: list[dict[str, object]] = [
        {"rule": "Certified", "certificate": shorts[one], "description": subjects.get(one)}
        for one in listed.certified
    ]
    rows += [{"rule": "Identity", "node": one} for one in listed.identity]
    return rows


def _state(enabled: bool) -> str:
    return "enabled" if enabled else "disabled"


Subjects = dict[str, str | dict[str, str]]
