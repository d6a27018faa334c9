"""Every SQL statement of the node is understood by both engines."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import shem
from shem.store.postgres import PostgresStore
from shem.store.sql import for_postgres, parameter_names
from shem.store.sqlite import SqliteStore
from shem.store.unit import Store

PACKAGES = ("shem.store", "shem.identity", "shem.net", "shem.market", "shem.activity")
FOREIGN = ("shem.identity.yagna_datadir",)
"""Modules whose statements read another program's database."""
STATEMENT = re.compile(
    r"\s*(SELECT\b.*\bFROM|INSERT INTO|UPDATE\b.*\bSET|DELETE FROM|WITH)\b", re.S
)


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(shem.__path__, "shem."):
        if found.name.startswith(PACKAGES) and found.name not in FOREIGN:
            yield importlib.import_module(found.name)


def statements() -> dict[str, str]:
    """Return the SQL texts that stand in the code, with the module of each."""
    found: dict[str, str] = {}
    for module in modules():
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        inside = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
        }
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and id(node) not in inside
        ]
        texts += [value for name, value in vars(module).items() if name.isupper()]
        for text in texts:
            if isinstance(text, str) and STATEMENT.match(text):
                found.setdefault(text, module.__name__)
    return found


async def explain(store: Store, sql: str) -> None:
    nothing = dict.fromkeys(parameter_names(sql))
    if isinstance(store, SqliteStore):
        assert store._reader is not None
        store._reader.execute(f"EXPLAIN {sql}", nothing).fetchall()
    elif isinstance(store, PostgresStore):
        async with store._writers.acquire() as connection:
            await connection.execute(f"EXPLAIN {for_postgres(sql, nothing)[0]}")


def test_the_statements_are_found() -> None:
    assert len(statements()) > 20


async def test_all_statements_are_understood(store: Store) -> None:
    refused = []
    for sql, module in statements().items():
        try:
            await explain(store, sql)
        except Exception as error:
            refused.append(f"{module}: {error}\n{sql}")

    if refused:
        pytest.fail("\n\n".join(refused))
