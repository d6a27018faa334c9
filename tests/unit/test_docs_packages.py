"""Packages name all that is in them, and files that the architecture names exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "shem"
PACKAGES = [init.parent for init in sorted(SOURCE.rglob("__init__.py")) if init.parent != SOURCE]
NAMED = re.compile(r"`([a-z_0-9]+)`")
FILE = re.compile(r"`([a-z_0-9]+/(?:[a-z_0-9/]+\.py)?)`")


def says(package: Path) -> str:
    return ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8"))) or ""


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_package_names_every_module_in_it(package: Path) -> None:
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    modules |= {init.parent.name for init in package.glob("*/__init__.py")}
    assert modules - set(NAMED.findall(says(package))) == set()


def test_every_table_has_one_package_that_owns_it() -> None:
    migrations = (SOURCE / "store" / "migrations").glob("*.sql")
    tables = {
        table
        for path in migrations
        for table in re.findall(r"CREATE TABLE (\w+)", path.read_text("utf-8"))
    }
    assert len(tables) > 15
    owned = [table for package in PACKAGES for table in owned_by(package)]
    assert sorted(owned) == sorted(tables)


def owned_by(package: Path) -> list[str]:
    """Return what stands behind `Tables…:` in a package's docstring, up to the full stop."""
    told = re.search(r"Tables[^:]*: (.*?)[.;](?:\s|\Z)", says(package), re.DOTALL)
    return NAMED.findall(told[1].replace("`secure`", "")) if told else []


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    paths = set(FILE.findall(text))
    assert len(paths) > 30
    missing = [path for path in paths if not ((SOURCE / path).exists() or (ROOT / path).exists())]
    assert missing == []
