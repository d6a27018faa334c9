"""Run the test suites, fast ones first: `python -m tests.run [SUITE ...]`.

On a fresh Debian machine with root it first installs what some suites need (`NEEDS`); without
root those suites skip with the reason. Every suite is one run of pytest. A test that failed is run
once more, and said so: in all suites some tests run real programs in real time, and a busy machine
may upset them. The exit status is 1 when any suite failed.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
SUITES: Final[dict[str, list[str]]] = {
    "fast": ["-n", "2", "tests/unit", "tests/property"],
    "contract": ["-n", "4", "tests/contract"],
    "sim": ["-n", "2", "tests/sim", "tests/fuzz"],
    "crash": ["-n", "4", "--maxschedchunk", "1", "tests/crash"],
    "interop": ["-n", "4", "--dist", "loadfile", "tests/interop"],
    "netns": ["-n", "6", "--dist", "worksteal", "tests/netns"],
    "e2e": ["-n", "4", "--maxschedchunk", "1", "tests/e2e"],
}
NEEDS: Final[dict[str, str]] = {
    "postgresql": "/usr/lib/postgresql",
    "clang": "/usr/bin/clang",
    "lld": "/usr/bin/wasm-ld",
    "wasi-libc": "/usr/lib/wasm32-wasi",
    "libclang-rt-14-dev-wasm32": "/usr/lib/llvm-14/lib/clang/14.0.6/lib/wasi",
    "iproute2": "/usr/sbin/ip",
    "bubblewrap": "/usr/bin/bwrap",
    "squashfs-tools": "/usr/bin/mksquashfs",
    "busybox-static": "/bin/busybox",
    "strace": "/usr/bin/strace",
}
"""Debian packages, and a path each of them brings."""
SOME_FAILED: Final = 1
NO_TESTS_COLLECTED: Final = 5


def install_needs() -> None:
    """Install missing Debian packages where that is possible."""
    missing = [package for package, path in NEEDS.items() if not _present(path)]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"not installed, some tests will skip: {' '.join(missing)}", flush=True)  # noqa: T201
        return
    print(f"installing {' '.join(missing)}", flush=True)  # noqa: T201
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", *missing]):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stdout[-2000:], done.stderr[-2000:], flush=True)  # noqa: T201
            return


def _present(path: str) -> bool:
    return Path(path).exists() or shutil.which(Path(path).name) is not None


def run_suite(name: str) -> tuple[str, float]:
    """Run one suite; returns `passed`, `passed at the second try` or `FAILED`, and seconds."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", *SUITES[name]]
    print(f"== {name}", flush=True)  # noqa: T201
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    verdict = "passed" if status in {0, NO_TESTS_COLLECTED} else "FAILED"
    if status == SOME_FAILED:
        print(f"== {name}: what failed, once more", flush=True)  # noqa: T201
        again = subprocess.run([*command, "--last-failed"], cwd=ROOT, check=False).returncode
        verdict = "passed at the second try" if again == 0 else "FAILED"
    return verdict, time.monotonic() - started


def main(chosen: list[str]) -> int:
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        print(f"no suite {unknown[0]!r}; there are: {' '.join(SUITES)}", file=sys.stderr)  # noqa: T201
        return 2
    install_needs()
    results = {name: run_suite(name) for name in chosen or SUITES}
    for name, (verdict, seconds) in results.items():
        print(f"{name:10} {seconds:6.1f} s  {verdict}")  # noqa: T201
    return 1 if any(verdict == "FAILED" for verdict, _ in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
