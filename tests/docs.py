"""Write the reference pages that come from the code: `python -m tests.docs [--check]`.

* `docs/reference/limits.md`: every named limit and time of `src/`, and why;
* `docs/reference/states.md`: the state machines, drawn from their tables;
* `docs/reference/cli.md`: the commands, as `--help` tells them.

`make docs` writes them, `make check` fails when one differs.
"""

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "src"
TARGET: Final = ROOT / "docs" / "reference"
MACHINES: Final = {
    "Proposal": ("shem.market.states", "PROPOSAL_TRANSITIONS"),
    "Agreement": ("shem.market.states", "AGREEMENT_TRANSITIONS"),
    "Activity, from report to report": ("shem.activity.states", "TRANSITIONS"),
    "Batch, as the requestor's node knows it": ("shem.activity.batches", "TRANSITIONS"),
    "ExeUnit": ("shem.exeunit.core", "TRANSITIONS"),
    "End of work by its terms": ("shem.exeunit.ending", "TRANSITIONS"),
}
WORDS_MAX: Final = 160
LIMIT_ENDINGS: Final = (
    "_S",
    "_MS",
    "_NS",
    "_MAX",
    "_MIN",
    "_SIZE",
    "_BYTES",
    "_LIMIT",
    "_LINES",
    "_FACTOR",
    "_DAYS",
    "_ROWS",
)
"""What a name that limits something ends with; other constants are tags and the like."""
WIDTH: Final = 90


def limits() -> str:
    lines = [
        "# Limits and times",
        "",
        "Every named limit of the code; made by `make docs`. A name says its unit: `_S` seconds,",
        "`_MS`, `_NS`; `_MAX` is the most that is taken.",
    ]
    for path in sorted(SOURCE.rglob("*.py")):
        rows = list(_numbers(path))
        if rows:
            lines += [
                "",
                f"## {path.relative_to(SOURCE)}",
                "",
                "| name | value | |",
                "|---|---|---|",
            ]
            lines += [f"| `{name}` | {value} | {words} |" for name, value, words in rows]
    return "\n".join(lines) + "\n"


def _numbers(path: Path) -> Iterator[tuple[str, str, str]]:
    body = ast.parse(path.read_text()).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        if not name.endswith(LIMIT_ENDINGS) or not _is_final(statement.annotation):
            continue
        value = _value(statement.value)
        if value is not None:
            yield name, value, _words(after)


def _is_final(annotation: ast.expr) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Final"


def _value(node: ast.expr | None) -> str | None:
    """Return a number, or an arithmetic expression of numbers, as the source writes it."""
    if node is None:
        return None
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)
    parts = list(ast.walk(node))
    numbers = [part for part in parts if isinstance(part, ast.Constant)]
    if not all(isinstance(part, allowed) for part in parts):
        return None
    if not all(type(number.value) in {int, float} for number in numbers):
        return None
    return f"`{ast.unparse(node)}`"


def _words(after: ast.stmt | None) -> str:
    if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
        return ""
    if not isinstance(after.value.value, str):
        return ""
    text = " ".join(after.value.value.split()).replace("|", "\\|")
    return text if len(text) <= WORDS_MAX else text[:WORDS_MAX].rsplit(" ", 1)[0] + " …"


def states() -> str:
    lines = ["# State machines", "", "Drawn from the tables in the code by `make docs`."]
    for title, (module, name) in MACHINES.items():
        table: Mapping[Any, Any] = getattr(importlib.import_module(module), name)
        lines += ["", f"## {title}", "", f"`{module}.{name}`; an absent pair is refused.", ""]
        lines += ["```mermaid", "stateDiagram-v2"]
        for (state, event), following in table.items():
            edge = f"    {_name(state)} --> {_name(following)}"
            lines.append(edge if _name(event) == _name(following) else f"{edge}: {_name(event)}")
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _name(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_name, value))
    return str(getattr(value, "value", value))


def commands() -> str:
    from shem.cli.main import cli

    lines = ["# Commands", "", "As `shem --help` and its sub-commands tell; made by `make docs`."]
    for path, command in _walk(cli, "shem"):
        context = click.Context(command, info_name=path, terminal_width=WIDTH)
        lines += ["", f"## {path}", "", "```", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def _walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _walk(child, f"{path} {name}")


PAGES: Final = {"limits.md": limits, "states.md": states, "cli.md": commands}


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    TARGET.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, make in PAGES.items():
        page, text = TARGET / name, make()
        if check and (not page.exists() or page.read_text() != text):
            stale.append(name)
        elif not check:
            page.write_text(text)
    if stale:
        print(f"docs/reference is stale ({', '.join(stale)}): run `make docs`")  # noqa: T201
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
