"""`shem exe-unit`: the command line of a Golem supervisor (docs/protocol/activity-exeunit.md §6.1).

Started by a provider agent, ours or another. Options of the original that mean nothing to the
built-in runtime are accepted where ignoring them is right, and refused where it is not.
"""

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shem.exeunit.usage import COUNTERS
from shem.kernel import log as logs
from shem.kernel.config import DEFAULT_GSB_URL, setting
from shem.kernel.errors import NotSupported
from shem.kernel.world import World

if TYPE_CHECKING:
    from shem.exeunit.service import Setup

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)

OFFER_TEMPLATE: Final[dict[str, Any]] = {
    "properties": {
        "golem.com.usage.vector": list(COUNTERS),
        "golem.activity.caps.transfer.protocol": ["http", "https"],
        "golem.activity.caps.transfer.report-progress": False,
        "golem.activity.caps.deploy.report-progress": False,
        "golem.runtime.capabilities": [],
    },
    "constraints": "",
}
"""The protocols are those an image can come by; the transfer command is not built yet."""


@click.group()
@click.option("-b", "--binary", type=click.Path(path_type=Path), help="Another runtime's binary.")
@click.option("-r", "--runtime-arg", multiple=True, help="Argument for the runtime.")
@click.option("--runtime-managed-hardware", "--cap-handoff", is_flag=True)
@click.option("--runtime-managed-image", is_flag=True)
@click.option("--sec-key", hidden=True)
def exe_unit(
    binary: Path | None,
    runtime_arg: tuple[str, ...],
    runtime_managed_hardware: bool,
    runtime_managed_image: bool,
    sec_key: str | None,
) -> None:
    """Run one activity; started by the provider agent."""
    del runtime_managed_hardware
    if binary is not None or runtime_arg:
        raise NotSupported("runtime binaries (-b, -r) are not supported yet: leave them out")
    if runtime_managed_image:
        raise NotSupported("--runtime-managed-image is not supported yet")
    if sec_key is not None:
        raise NotSupported("--sec-key (SGX) is not supported")
    logs.configure()


@exe_unit.command("service-bus")
@click.argument("service_id")
@click.argument("report_url")
@click.option("-a", "--agreement", required=True, type=click.Path(path_type=Path))
@click.option("-w", "--work-dir", required=True, type=click.Path(path_type=Path))
@click.option("-c", "--cache-dir", required=True, type=click.Path(path_type=Path))
@click.option("--requestor-pub-key", hidden=True)
def service_bus(
    *,
    service_id: str,
    report_url: str,
    agreement: Path,
    work_dir: Path,
    cache_dir: Path,
    requestor_pub_key: str | None,
) -> None:
    """Serve activity SERVICE_ID on the node's bus, reporting to REPORT_URL."""
    if requestor_pub_key is not None:
        raise NotSupported("--requestor-pub-key (SGX) is not supported")
    from shem.exeunit.service import Setup

    setup = Setup(
        activity_id=service_id,
        report_url=report_url,
        agreement_file=agreement.absolute(),
        work_dir=work_dir.absolute(),
        cache_dir=cache_dir.absolute(),
        gsb_url=setting("GSB_URL", "GSB_URL") or DEFAULT_GSB_URL,
    )
    setup.work_dir.mkdir(parents=True, exist_ok=True)
    setup.cache_dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(_serve(setup))


@exe_unit.command("from-file")
@click.argument("input_file", required=False)
@click.option("-a", "--agreement")
@click.option("-w", "--work-dir")
@click.option("-c", "--cache-dir")
@click.option("--report-url")
@click.option("--service-id")
def from_file(**_: object) -> None:
    """Run a command file (not supported yet)."""
    raise NotSupported("running a command file is not supported yet")


@exe_unit.command("offer-template")
def offer_template() -> None:
    """Print what an Offer can say of this ExeUnit."""
    click.echo(json.dumps(OFFER_TEMPLATE))


@exe_unit.command("test")
def test() -> None:
    """Check that the runtime works on this machine."""
    from shem.exeunit.runtimes.wasm import check_runtime

    check_runtime()
    click.echo("ok")


async def _serve(setup: "Setup") -> None:
    from shem.exeunit.service import ExeUnit

    unit = ExeUnit(setup, World())
    loop = asyncio.get_running_loop()
    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, unit.end, f"Interrupted by signal: {int(number)}")
    await unit.serve()
