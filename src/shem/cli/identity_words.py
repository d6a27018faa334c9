"""What the commands about identities share: whom they mean, passwords, and how one is printed."""

import sys
from typing import Any, Final

import click

from shem.cli.ask import Ask, show_fields, show_json
from shem.cli.main import Options
from shem.kernel.errors import Denied, NotFound

json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document."
)


async def resolve(ask: Ask, who: str | None) -> dict[str, Any]:
    """Return the identity that is meant: the default one, an alias, or a node id."""
    question: object = "byDefault"
    if who is not None:
        question = {"byNodeId": who} if who.startswith("0x") else {"byAlias": who}
    found = await ask("/local/identity/Get", question)
    if not isinstance(found, dict):
        raise NotFound(f"this node has no identity {who or 'yet'}")
    return found


def read_password(prompt: str, *, twice: bool = False) -> str:
    """Ask on the terminal, without echo; Denied where there is none."""
    if not sys.stdin.isatty():
        raise Denied("a password is asked for on a terminal, and there is none")
    password = click.prompt(
        prompt, hide_input=True, confirmation_prompt=twice, default="", show_default=False
    )
    return str(password)


def show_identity(options: Options, found: dict[str, object] | None, *, as_json: bool) -> None:
    if options.json or as_json:
        show_json({"Ok": found})
    elif found is not None:
        show_fields(found)
