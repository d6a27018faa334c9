"""Which runtime an ExeUnit has, as its command line says (docs/protocol/activity-exeunit.md §6.1).

A binary (`-b`) is a plugin; without one it is a built-in runtime: `wasm` in this process, or
`container`, which is a plugin of our own.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from shem.exeunit.outbound.gateway import Gateway
from shem.exeunit.outbound.grants import Grants
from shem.exeunit.runtimes.base import Limits, Runtime, RuntimeFault
from shem.exeunit.runtimes.plugin import Plugin, PluginRuntime, ask
from shem.exeunit.usage import COUNTERS, MEMORY, STORAGE
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.rest.endwhen import CAN_END_WHEN, CAN_SINK, SINK_SCHEMES, Condition, names_of
from shem.rest.manifest import NOTHING, Outbound

CAPABILITIES: Final = "golem.runtime.capabilities"
MANIFEST_SUPPORT: Final = "manifest-support"
"""Scripts are kept to the manifest of their agreement, whatever the runtime is."""
OUTBOUND_PROXY: Final = "outbound-proxy"
"""Programs find a proxy that leads to what the manifest names (docs/protocol/extensions.md)."""
OFFER_TEMPLATE: Final[dict[str, Any]] = {
    "properties": {
        "golem.com.usage.vector": list(COUNTERS),
        "golem.activity.caps.transfer.protocol": ["http", "https", "gftp"],
        "golem.activity.caps.transfer.report-progress": True,
        "golem.activity.caps.deploy.report-progress": True,
        CAPABILITIES: [MANIFEST_SUPPORT],
        CAN_END_WHEN: [str(condition) for condition in Condition],
        CAN_SINK: list(SINK_SCHEMES),
    },
    "constraints": "",
}
"""What is true of every runtime of this ExeUnit."""


class BuiltIn(StrEnum):
    """The runtimes that come with shem."""

    WASM = "wasm"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeChoice:
    """What the command line says of the runtime."""

    built_in: BuiltIn = BuiltIn.WASM
    binary: Path | None = None
    args: tuple[str, ...] = ()
    manages_hardware: bool = False
    """The runtime keeps to the limits itself; the ExeUnit does not watch them."""
    manages_image: bool = False
    """The runtime finds its image itself."""

    @property
    def is_plugin(self) -> bool:
        return self.binary is not None or self._is_container

    @property
    def watched(self) -> frozenset[str]:
        """Return the counters whose limits the ExeUnit watches.

        A container has its memory by control groups, and no quota of the disk.
        """
        if self.manages_hardware:
            return frozenset()
        return frozenset({STORAGE} if self._is_container else {MEMORY, STORAGE})

    @property
    def _is_container(self) -> bool:
        return self.binary is None and self.built_in is BuiltIn.CONTAINER

    def plugin(self, limits: Limits | None = None, way_out: Gateway | None = None) -> Plugin:
        """Return how the binary is called."""
        if self.binary is not None:
            command: tuple[str, ...] = (str(self.binary.absolute()),)
        else:
            command = (sys.executable, "-I", "-m", "shem.exeunit.runtimes.container")
        return Plugin(
            command=command,
            args=self.args,
            limits=limits if self.manages_hardware or self._is_container else None,
            needs_image=not self.manages_image,
            way_out=way_out,
        )

    def make(
        self,
        work_dir: Path,
        limits: Limits,
        world: World,
        scope: TaskScope,
        *,
        cache_dir: Path | None = None,
        outbound: Outbound = NOTHING,
    ) -> Runtime:
        """Return the runtime of one activity.

        What it compiles is kept in `cache_dir`; its programs may reach `outbound`, where they can.
        """
        if self.is_plugin:
            way_out = None
            if self._is_container and outbound.is_requested:
                way_out = Gateway(Grants.of(outbound), work_dir, world)
            return PluginRuntime(self.plugin(limits, way_out), work_dir, world, scope)
        from shem.exeunit.runtimes.wasm import WasmRuntime

        return WasmRuntime(work_dir, world.rng, limits, cache=cache_dir)

    async def offer_template(self, world: World) -> dict[str, Any]:
        """Return what an Offer can say: our own part, and the runtime's where it has one."""
        theirs = await self._own_template(world) if self.is_plugin else {}
        found = theirs.get("properties")
        properties: dict[str, Any] = found if isinstance(found, dict) else {}
        constraints = theirs.get("constraints")
        capabilities = {*names_of(properties.get(CAPABILITIES)), MANIFEST_SUPPORT}
        if self._is_container:
            capabilities.add(OUTBOUND_PROXY)
        return {
            "properties": {
                **OFFER_TEMPLATE["properties"],
                **properties,
                CAPABILITIES: sorted(capabilities),
            },
            "constraints": constraints if isinstance(constraints, str) else "",
        }

    async def check(self, world: World) -> str:
        """Return what the runtime says of itself; RuntimeFault when it does not work here."""
        if not self.is_plugin:
            from shem.exeunit.runtimes.wasm import check_runtime

            check_runtime()
            return "ok"
        with tempfile.TemporaryDirectory() as directory:
            code, said = await ask(self.plugin(), "test", Path(directory), world)
        text = said.decode(errors="replace").strip()
        if code != 0:
            raise RuntimeFault(f"the runtime's test exited with code {code}: {text}")
        return text

    async def _own_template(self, world: World) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            code, said = await ask(self.plugin(), "offer-template", Path(directory), world)
        try:
            template = json.loads(said) if code == 0 else {}
        except (ValueError, RecursionError):
            template = {}
        return template if isinstance(template, dict) else {}
