"""The command line of the runtime, as supervisors call it (docs/protocol/activity-exeunit.md §9.1).

`python -m shem.exeunit.runtimes.container [OPTIONS] deploy|start|offer-template|test`. The parser
is by hand: a container's start waits for every import.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from shem.exeunit.runtimes.container.deployment import deploy, load
from shem.exeunit.runtimes.container.image import ImageFault
from shem.exeunit.runtimes.container.limits import (
    ContainerLimits,
    are_enough,
    enter_groups,
    set_process_limits,
)
from shem.exeunit.runtimes.container.namespaces import enter, prepare, require_tools
from shem.exeunit.runtimes.container.way_out import connected, hand_over

OPTIONS: Final = (
    *("--workdir", "--task-package", "--cpu-cores", "--mem-gib", "--storage-gib"),
    *("--volume-override", "--hostname", "--outbound-socket"),
)
OFFER_TEMPLATE: Final[dict[str, Any]] = {
    "properties": {"golem.runtime.capabilities": ["start-entrypoint"]},
    "constraints": "",
}
EXIT_USAGE: Final = 2
UNPACKING_MEMORY_SIZE: Final = 2 << 30
_GIB: Final = 1 << 30


def main(words: Sequence[str] | None = None) -> int:
    """Do what the supervisor says; the exit status says whether it was done."""
    try:
        options, command, args = parse(list(sys.argv[1:] if words is None else words))
        return _do(options, command, args)
    except ImageFault as fault:
        sys.stderr.write(f"{fault.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def script() -> None:
    """Run as the command `shem-runtime-container`."""
    sys.exit(main())


def parse(words: list[str]) -> tuple[dict[str, str], str, list[str]]:
    """Split a command line into options, the command and its arguments."""
    options: dict[str, str] = {}
    while words and words[0] in OPTIONS:
        if len(words) < 2:
            raise ImageFault(f"{words[0]} needs a value")
        options[words[0]] = words[1]
        words = words[2:]
    if not words:
        raise ImageFault("there is no command: deploy, start, offer-template or test")
    return options, words[0], [word for word in words[1:] if word != "--"]


def _do(options: dict[str, str], command: str, args: list[str]) -> int:
    if command == "offer-template":
        sys.stdout.write(json.dumps(OFFER_TEMPLATE))
        return 0
    if command == "test":
        return _test()
    if "--workdir" not in options:
        raise ImageFault("--workdir is missing")
    work_dir = Path(options["--workdir"]).absolute()
    limits = _limits(options)
    match command:
        case "deploy":
            return _deploy(work_dir, options, limits)
        case "start":
            return _start(work_dir, limits, args, options.get("--outbound-socket"))
    sys.stderr.write(f"{command} is not a command of this runtime\n")
    return EXIT_USAGE


def _deploy(work_dir: Path, options: dict[str, str], limits: ContainerLimits) -> int:
    require_tools()
    if "--task-package" not in options:
        raise ImageFault("--task-package is missing")
    unpacking = ContainerLimits(UNPACKING_MEMORY_SIZE, storage_size=limits.storage_size)
    set_process_limits(unpacking, frozenset())
    try:
        wishes = json.loads(options.get("--volume-override", "{}"))
        made = deploy(
            work_dir,
            Path(options["--task-package"]),
            wishes=wishes,
            hostname=options.get("--hostname"),
            limits=limits,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageFault(f"--volume-override: {error!r}") from error
    sys.stdout.write(json.dumps(made.reply()))
    return 0


def _start(
    work_dir: Path, limits: ContainerLimits, args: list[str], outbound_socket: str | None
) -> int:
    """Become the keeper of the container, within its limits."""
    from shem.exeunit.runtimes.container.keeper import START_ENTRYPOINT, Keeper

    require_tools()
    deployment = load(work_dir)
    limited = _limit(limits, hashlib.sha256(str(work_dir).encode()).hexdigest()[:16])
    with connected(outbound_socket) as supervisor:
        enter()
        root_name = prepare(work_dir, deployment)
        port = None if supervisor is None else hand_over(supervisor)
    watched = None if "memory" in limited else limits.memory_size
    keeper = Keeper(work_dir, root_name, deployment, watched, port)
    keeper.serve(entrypoint=START_ENTRYPOINT in args)
    return 0


def _limit(limits: ContainerLimits, name: str) -> frozenset[str]:
    limited = enter_groups(limits, f"{name}-{os.getpid()}")
    if not are_enough(limited):
        raise ImageFault("root needs control groups (memory, pids) to limit a container")
    set_process_limits(limits, limited)
    return limited


def _test() -> int:
    """Run nothing in a sandbox, with everything around it that a container needs."""
    require_tools()
    _limit(ContainerLimits(), "test")
    enter()
    sandbox = ["bwrap", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--uid", "1000"]
    sandbox += ["--ro-bind", "/", "/", "--dev", "/dev", "--", "true"]
    done = subprocess.run(sandbox, capture_output=True, text=True, check=False, timeout=20)
    sys.stdout.write("ok" if done.returncode == 0 else done.stderr)
    return done.returncode


def _limits(options: dict[str, str]) -> ContainerLimits:
    try:
        sizes = {
            name: int(float(options[name]) * _GIB)
            for name in ("--mem-gib", "--storage-gib")
            if name in options
        }
        cores = int(options["--cpu-cores"]) if "--cpu-cores" in options else None
    except ValueError as error:
        raise ImageFault(f"a limit is not a number: {error}") from error
    return ContainerLimits(sizes.get("--mem-gib"), cores, sizes.get("--storage-gib"))


if __name__ == "__main__":
    sys.exit(main())
