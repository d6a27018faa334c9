"""`shem market offers|demands|proposals|agreements`, `shem market agreement show|terminate`."""

from collections.abc import Callable
from typing import Any, Final

import click

from shem.cli.ask import Ask, show_fields, show_json, show_table, with_node
from shem.cli.main import Options
from shem.kernel.errors import NotFound, ShemError, UsageError

Command = Callable[..., Any]
Row = dict[str, Any]

BASE: Final = "/local/shem/market"
NAME: Final = "golem.node.id.name"
ERRORS: Final[dict[object, type[ShemError]]] = {400: UsageError, 404: NotFound}


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def limit_option(command: Command) -> Command:
    return click.option(
        "--limit", type=click.IntRange(1, 1000), default=100, help="The most rows (100)."
    )(command)


@click.group()
def market() -> None:
    """Offers, Demands, proposals and agreements of this node, all its identities."""


@market.command()
@click.option("--all", "everyone", is_flag=True, help="Those of other nodes, too.")
@json_option
@click.pass_obj
def offers(options: Options, everyone: bool, as_json: bool) -> None:
    """List the active Offers."""
    _list_subscriptions(options, {"kind": "offer", "all": everyone}, as_json)


@market.command()
@json_option
@click.pass_obj
def demands(options: Options, as_json: bool) -> None:
    """List the active Demands."""
    _list_subscriptions(options, {"kind": "demand"}, as_json)


@market.command()
@click.option("--subscription", help="Only those of this Offer or Demand.")
@limit_option
@json_option
@click.pass_obj
def proposals(options: Options, subscription: str | None, limit: int, as_json: bool) -> None:
    """List the latest proposals, and which the peer does not have yet."""
    body = {"subscription": subscription, "limit": limit}
    rows = _ask(options, "Proposals", body)
    columns = ["id", "role", "issuer", "peer", "state", "countered", "created", "waiting since"]
    _show(options, as_json, columns, rows)


@market.command()
@click.option("--state", help="Only those in this state, such as Approved.")
@limit_option
@json_option
@click.pass_obj
def agreements(options: Options, state: str | None, limit: int, as_json: bool) -> None:
    """List the latest agreements with their states of this moment."""
    rows = _ask(options, "Agreements", {"state": state, "limit": limit})
    columns = ["id", "role", "peer", "state", "created", "expires", "waiting since"]
    _show(options, as_json, columns, rows)


@market.group()
def agreement() -> None:
    """One agreement."""


@agreement.command()
@click.argument("agreement_id")
@json_option
@click.pass_obj
def show(options: Options, agreement_id: str, as_json: bool) -> None:
    """Show an agreement: its state, its log, and what the other party does not have yet."""
    found = _ask(options, "Agreement", {"agreementId": agreement_id})
    if options.json or as_json:
        show_json(found)
        return
    for row in found:
        fields = {
            name: row.get(name)
            for name in (
                "id",
                "role",
                "identity",
                "peer",
                "state",
                "created",
                "validTo",
                "approved",
                "expires",
                "session",
            )
        }
        fields["provider name"] = row["offer"]["properties"].get(NAME)
        fields["requestor name"] = row["demand"]["properties"].get(NAME)
        show_fields(fields)
        for event in row["events"]:
            reason = event.get("reason") or {}
            words = [event["eventDate"], event["eventType"], event.get("terminator", "")]
            click.echo("  ".join([*words, str(reason.get("message", ""))]).rstrip())
        for item in row.get("pendingDelivery", ()):
            click.echo(f"{item['message']} waits for the peer since {item['since']}")


@agreement.command()
@click.argument("agreement_id")
@click.option("--reason", default="Terminated by hand", help="What the other party is told.")
@click.pass_obj
def terminate(options: Options, agreement_id: str, reason: str) -> None:
    """End an agreement that is in force; the other party learns of it when it can be reached."""
    _ask(options, "Terminate", {"agreementId": agreement_id, "message": reason})
    click.echo(f"Agreement {agreement_id} is terminated.")


def _list_subscriptions(options: Options, body: Row, as_json: bool) -> None:
    rows = _ask(options, "Subscriptions", body)
    for row in rows:
        properties = row["properties"]
        row["name"] = properties.get(NAME) if isinstance(properties, dict) else None
    _show(options, as_json, ["id", "identity", "name", "created", "expires"], rows)


def _show(options: Options, as_json: bool, columns: list[str], rows: list[Row]) -> None:
    if options.json or as_json:
        show_json(rows)
        return
    for row in rows:
        waiting = row.get("pendingDelivery")
        row["waiting since"] = waiting[0]["since"] if waiting else None
    show_table(columns, rows)


def _ask(options: Options, name: str, body: Row) -> Any:
    """Ask the node; its refusals keep their meaning for the exit code."""
    from shem.bus.types import RemoteError

    async def work(ask: Ask) -> Any:
        return await ask(f"{BASE}/{name}", body)

    try:
        return with_node(options, work)
    except RemoteError as error:
        payload = error.payload if isinstance(error.payload, dict) else {}
        kind = ERRORS.get(payload.get("status"), ShemError)
        raise kind(str(payload.get("message", error.message))) from error
