"""`shem provider whitelist`: the domains that programs may reach."""

from collections.abc import Sequence

import click

from shem.cli.ask import show_json, show_table
from shem.cli.provider_rows import here, json_option, wants_json
from shem.kernel.errors import UsageError
from shem.provider.files import changing
from shem.provider.whitelist import DomainPattern, load_whitelist, save_whitelist
from shem.rest.scriptrules import Match

COLUMNS = ("ID", "Pattern", "Type")


@click.group()
def whitelist() -> None:
    """The domains that programs may reach, where a rule's mode is `whitelist`."""


@whitelist.command("list")
@json_option
@click.pass_context
def list_patterns(ctx: click.Context, /, as_json: bool) -> None:
    """List the patterns."""
    _show(load_whitelist(here(ctx)).patterns, as_json=wants_json(ctx, as_json))


@whitelist.command()
@click.option("-p", "--patterns", multiple=True, help="A domain, such as example.com; repeatable.")
@click.option(
    "-t",
    "--type",
    "kind",
    type=click.Choice([*map(str, Match)]),
    default=str(Match.STRICT),
    help="The domain itself, or a regular expression that is found in it.",
)
@click.argument("more", nargs=-1)
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    /,
    patterns: tuple[str, ...],
    kind: str,
    more: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add patterns; those that are there already are passed over."""
    new = [DomainPattern(text.lower(), Match(kind)) for text in (*patterns, *more)]
    if not new:
        raise UsageError("name something to add: --patterns example.com")
    directory = here(ctx)
    with changing(directory):
        before = load_whitelist(directory)
        after = before.added(new)
        save_whitelist(directory, after)
    _show(after.patterns[len(before.patterns) :], as_json=wants_json(ctx, as_json))


@whitelist.command()
@click.argument("ids", nargs=-1, required=True)
@json_option
@click.pass_context
def remove(ctx: click.Context, /, ids: tuple[str, ...], as_json: bool) -> None:
    """Remove patterns by their ids."""
    directory = here(ctx)
    with changing(directory):
        before = load_whitelist(directory)
        save_whitelist(directory, before.removed(ids))
    gone = [pattern for pattern in before.patterns if pattern.id in ids]
    _show(gone, as_json=wants_json(ctx, as_json))


def _show(patterns: Sequence[DomainPattern], *, as_json: bool) -> None:
    rows: list[dict[str, object]] = [
        dict(zip(COLUMNS, (found.id, found.domain, str(found.match)), strict=True))
        for found in patterns
    ]
    if as_json:
        show_json(rows)
    else:
        show_table([*COLUMNS], rows)
