"""`gftp server` as a child of the program: it serves our files to providers and takes theirs.

The process is started when it is first needed and ends with its `Golem`: when its input closes, so
also when the program is killed. It speaks JSON-RPC, a line each way, one request at a time
(docs/protocol/activity-exeunit.md §10.3). SHEM_GFTP names another command than our own.
"""

import asyncio
import json
import os
import shlex
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from shem.kernel.command import own_command
from shem.kernel.config import setting
from shem.kernel.piped import PipedProcess
from shem.kernel.world import World
from shem.kernel.writing import put_all
from shem.sdk.errors import GolemError, NotReachable, NotSupported

ANSWER_TIMEOUT_S: Final = 600.0
"""Publishing reads the whole file to know its hash."""
END_TIMEOUT_S: Final = 3.0


class GftpFailed(GolemError):
    """The `gftp` command could not do what was asked, with a file of this machine."""

    code = "gftp"


class Gftp:
    """One process that serves files."""

    def __init__(self, world: World, gsb_url: str | None) -> None:
        self._world = world
        self._gsb_url = gsb_url
        self._turn = asyncio.Lock()
        self._process: PipedProcess | None = None
        self._log: Path | None = None
        """Where the process complains."""
        self._number = 0

    async def publish(self, path: Path) -> str:
        """Serve a file; return its URL, which names its content."""
        found = await self._ask("publish", {"files": [str(path)]})
        return _url(found[0] if isinstance(found, list) and found else None)

    async def receive(self, path: Path) -> str:
        """Take a file that somebody will bring; return the URL to bring it to."""
        return _url(await self._ask("receive", {"output_file": str(path)}))

    async def close(self, urls: Sequence[str]) -> None:
        """Serve these no longer."""
        if urls and self._is_up:
            await self._ask("close", {"urls": list(urls)})

    async def end(self) -> None:
        """End the process and what it serves."""
        process, self._process = self._process, None
        if process is not None:
            process.stdin.close()
            try:
                async with asyncio.timeout(END_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                os.kill(process.pid, signal.SIGKILL)
                await process.wait()
            finally:
                process.close()
        if self._log is not None:
            self._log.unlink(missing_ok=True)
            self._log = None

    @property
    def _is_up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        async with self._turn:
            for was_up in (self._is_up, False):
                try:
                    answer = await self._exchange(method, params)
                    break
                except OSError as error:
                    if isinstance(error, TimeoutError) or not was_up:
                        raise await self._broken(error) from error
                    await self.end()  # it was killed meanwhile: a new one is asked
        if "result" not in answer:
            refusal = answer.get("error")
            raise GftpFailed(str(refusal.get("message") if isinstance(refusal, dict) else answer))
        return answer["result"]

    async def _exchange(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the process, which is started if need be, and read its answer."""
        process = await self._started()
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        await put_all(process.stdin, json.dumps(request).encode() + b"\n")
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await self._answer(process)

    async def _answer(self, process: PipedProcess) -> dict[str, Any]:
        """Read the answer to the last request; answers to ones that were given up are skipped."""
        while line := await process.stdout.readline():
            with suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and answer.get("id") == self._number:
                    return answer
        raise BrokenPipeError("it has ended")

    async def _started(self) -> PipedProcess:
        if self._process is not None and self._is_up:
            return self._process
        await self.end()
        given = setting("GFTP")
        command = [*shlex.split(given)] if given else [*own_command(), "gftp"]
        env = dict(os.environ)
        if self._gsb_url is not None:
            env |= {"GSB_URL": self._gsb_url, "SHEM_GSB_URL": self._gsb_url}
        descriptor, name = tempfile.mkstemp(prefix="shem-gftp-", suffix=".log")
        os.close(descriptor)
        self._log = Path(name)
        try:
            self._process = await self._world.processes.start_piped(
                [*command, "server"], cwd=Path.cwd(), env=env, log=self._log
            )
        except OSError as error:
            await self.end()
            raise NotSupported(
                f"files of this machine are moved by `gftp`, which cannot be started: {error}"
            ) from error
        return self._process

    async def _broken(self, error: Exception) -> GolemError:
        """Say why there was no answer, in the words of the process if it had any."""
        said = [] if self._log is None else self._log.read_text(errors="replace").splitlines()
        await self.end()
        return NotReachable(
            f"`gftp server` does not serve our files: {said[-1] if said else error!r}."
            " It needs the node's bus: set GSB_URL to where the node of YAGNA_API_URL has it"
        )


def _url(found: object) -> str:
    url = found.get("url") if isinstance(found, dict) else None
    if not isinstance(url, str):
        raise GftpFailed(f"`gftp` gave no URL: {found!r}")
    return url
