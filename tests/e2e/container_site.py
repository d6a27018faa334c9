"""A real ExeUnit process with a container, on the bus of a node."""

from pathlib import Path
from typing import Any

import psutil

from shem.devnet.image import write_image
from tests.crash.exeunit_site import SETUP, Daemon, Site

OPTIONS = ("--runtime", "container")


class ContainerSite(Site):
    """One directory with everything that an ExeUnit with a container needs."""

    def __init__(self, directory: Path, **offer: float) -> None:
        super().__init__(directory)
        self.image = write_image(directory)
        package = f"hash:sha3:{self.image.sha3_256}:{self.image.path.as_uri()}"
        offered = {f"golem.inf.{name.replace('_', '.')}": value for name, value in offer.items()}
        self.write_agreement(task_package=package, offer=offered)

    async def set_up(self, daemon: Daemon, *args: str) -> psutil.Process:
        """Start the ExeUnit and its container; return the process."""
        process = await self.start(*OPTIONS)
        await daemon.unit_is_bound()
        setup: list[dict[str, Any]] = [SETUP[0], {"start": {"args": list(args)}}]
        results = await daemon.run("setup", *setup)
        assert [result["result"] for result in results] == ["Ok", "Ok"], results
        return psutil.Process(process.pid)


def sh(script: str, *, stdout: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the command that runs a shell script."""
    capture = {"stdout": stdout or {"atEnd": {}}, "stderr": {"atEnd": {}}}
    return {"run": {"entry_point": "/bin/sh", "args": ["-c", script], "capture": capture}}
