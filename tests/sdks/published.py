"""The published SDKs, in environments of their own.

Installed once, by pip and npm, into `.cache/` of the project; without a package index, or without
Node, the tests that need them skip with the reason.
"""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("golem-core==0.7.8", "yapapi==0.13.1")
ENVIRONMENT = ROOT / ".cache" / "published-sdks"
JS_PACKAGES = ("@golem-sdk/golem-js@3.6.0",)
JS_ENVIRONMENT = ROOT / ".cache" / "published-js"
INSTALL_TIMEOUT_S = 300


def sdk_python() -> Path:
    """Return the Python that has the SDKs."""
    python = ENVIRONMENT / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES]
    _once(ENVIRONMENT, PACKAGES, [sys.executable, "-m", "venv", str(ENVIRONMENT)], pip)
    return python


def sdk_node() -> Path:
    """Return the directory in which Node finds golem-js."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("golem-js needs Node and npm")
    npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(JS_ENVIRONMENT)]
    _once(JS_ENVIRONMENT, JS_PACKAGES, [*npm, *JS_PACKAGES])
    return JS_ENVIRONMENT


def _once(place: Path, packages: Sequence[str], *commands: Sequence[str]) -> None:
    """Install, unless that is done; other tests wait for it."""
    done = place / "installed"
    place.parent.mkdir(exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return
        place.mkdir(exist_ok=True)
        _install(commands)
        done.write_text("\n".join(packages))


def _install(commands: Sequence[Sequence[str]]) -> None:
    for command in commands:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"the published SDKs cannot be installed: {done.stderr[-500:]}")
