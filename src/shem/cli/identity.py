"""`shem id show` and `shem app-key list` (docs/protocol/gsb-identity.md §6.2)."""

import click

from shem.cli.ask import Ask, show_fields, show_json, show_table, with_node
from shem.cli.main import Options
from shem.kernel.errors import NotFound

PAGE_SIZE = 100


@click.group()
def identity() -> None:
    """Identities of this node."""


@identity.command("show")
@click.argument("who", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def show(options: Options, who: str | None, as_json: bool) -> None:
    """Show the default identity, or WHO: an alias or a node id.

    With --json it prints {"Ok": …}, as yagna does.
    """
    question: object = "byDefault"
    if who is not None:
        question = {"byNodeId": who} if who.startswith("0x") else {"byAlias": who}

    async def work(ask: Ask) -> object:
        return await ask("/local/identity/Get", question)

    found = with_node(options, work)
    if options.json or as_json:
        show_json({"Ok": found})
    elif isinstance(found, dict):
        show_fields(found)
    else:
        raise NotFound(f"this node has no identity {who}")


@click.group()
def app_key() -> None:
    """Application keys: what a program shows to use this node."""


@app_key.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def list_keys(options: Options, as_json: bool) -> None:
    """List the keys, with the identity each acts for."""

    async def work(ask: Ask) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        page = 1
        while True:
            body = {"identity": None, "page": page, "perPage": PAGE_SIZE}
            keys, pages = await ask("/local/appkey/List", body)
            rows += [_row(key) for key in keys if page == 1 or key["name"] != "autoconfigured"]
            if page >= pages:
                return rows
            page += 1

    rows = with_node(options, work)
    if options.json or as_json:
        show_json(rows)
    else:
        show_table(["name", "key", "id", "role", "created"], rows)


def _row(key: dict[str, object]) -> dict[str, object]:
    return {
        "created": key["createdDate"],
        "id": key["identity"],
        "key": key["key"],
        "name": key["name"],
        "role": key["role"],
    }
