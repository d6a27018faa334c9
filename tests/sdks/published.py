"""The published Python SDKs, in an environment of their own.

Installed once, by pip, into `.cache/` of the project; without a package index the tests that need
them skip with the reason.
"""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("golem-core==0.7.8", "yapapi==0.13.1")
ENVIRONMENT = ROOT / ".cache" / "published-sdks"
INSTALL_TIMEOUT_S = 300


def sdk_python() -> Path:
    """Return the Python that has the SDKs."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "installed"
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / "published-sdks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _install(python)
            done.write_text("\n".join(PACKAGES))
    return python


def _install(python: Path) -> None:
    commands = (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES],
    )
    for command in commands:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"the published SDKs cannot be installed: {done.stderr[-500:]}")
