"""`shem exe-unit`: the command line of a Golem supervisor (docs/protocol/activity-exeunit.md §6.1).

Started by a provider agent, ours or another.
"""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shem.exeunit.estate import KEEPS
from shem.kernel import log as logs
from shem.kernel.config import DEFAULT_GSB_URL, setting
from shem.kernel.errors import NotSupported, UsageError
from shem.kernel.world import World

if TYPE_CHECKING:
    from shem.exeunit.from_file import FileRun, Outcome
    from shem.exeunit.runtimes.choice import RuntimeChoice
    from shem.exeunit.service import ExeUnit, Setup

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)

FINISHING_SIGNAL: Final = signal.SIGUSR1
"""The requestor is away for too long: take nothing new, and end with what runs."""


@click.group()
@click.option("-b", "--binary", type=click.Path(path_type=Path), help="A runtime's binary.")
@click.option("-r", "--runtime-arg", multiple=True, help="Argument for every call of the binary.")
@click.option(
    "--runtime-managed-hardware",
    "--cap-handoff",
    is_flag=True,
    help="The runtime keeps to the limits of the Offer itself.",
)
@click.option("--runtime-managed-image", is_flag=True, help="The runtime finds its image itself.")
@click.option("--runtime", type=click.Choice(["wasm", "container"]), default="wasm")
@click.option("--sec-key", hidden=True)
@click.pass_context
def exe_unit(
    ctx: click.Context,
    *,
    binary: Path | None,
    runtime_arg: tuple[str, ...],
    runtime_managed_hardware: bool,
    runtime_managed_image: bool,
    runtime: str,
    sec_key: str | None,
) -> None:
    """Run one activity; started by the provider agent.

    Without a binary the runtime is a built-in one: --runtime.
    """
    if sec_key is not None:
        raise NotSupported("--sec-key (SGX) is not supported")
    if binary is not None and not binary.exists():
        raise UsageError(f"--binary: there is no {binary}")
    from shem.exeunit.runtimes.choice import BuiltIn, RuntimeChoice

    ctx.obj = RuntimeChoice(
        built_in=BuiltIn(runtime),
        binary=binary,
        args=runtime_arg,
        manages_hardware=runtime_managed_hardware,
        manages_image=runtime_managed_image,
    )
    if ctx.obj.args and not ctx.obj.is_plugin:
        raise UsageError("--runtime-arg: the built-in runtime takes no arguments")
    logs.configure()


@exe_unit.command("service-bus")
@click.argument("service_id")
@click.argument("report_url")
@click.option("-a", "--agreement", required=True, type=click.Path(path_type=Path))
@click.option("-w", "--work-dir", required=True, type=click.Path(path_type=Path))
@click.option("-c", "--cache-dir", required=True, type=click.Path(path_type=Path))
@click.option("--requestor-pub-key", hidden=True)
@click.pass_obj
def service_bus(
    choice: "RuntimeChoice",
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
        keeps=KEEPS in os.environ,
        runtime=choice,
    )
    setup.work_dir.mkdir(parents=True, exist_ok=True)
    setup.cache_dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(_serve(setup))


@exe_unit.command("nursery", hidden=True)
def nursery() -> None:
    """Fork an ExeUnit for every order that comes on standard input."""
    from shem.exeunit.nursery import tend

    args = tend()
    if args is not None:
        exe_unit.main(args=args, prog_name="shem exe-unit", standalone_mode=False)


@exe_unit.command("from-file")
@click.argument("input_file", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--image", type=click.Path(path_type=Path), help="The package to run: a local file.")
@click.option(
    "-a",
    "--agreement",
    type=click.Path(path_type=Path),
    help="Terms to run under: package, limits, counters.",
)
@click.option(
    "-w",
    "--work-dir",
    type=click.Path(path_type=Path),
    help="Where to work; an empty directory, which stays [one that is removed].",
)
@click.option("-c", "--cache-dir", type=click.Path(path_type=Path), help="Where packages are kept.")
@click.option("--report-url", default="", help="Where on the node's bus to report state and usage.")
@click.option("--service-id", help="The activity to report as.")
@click.option("--requestor-pub-key", hidden=True)
@click.pass_obj
def from_file(
    choice: "RuntimeChoice", /, *, input_file: Path, image: Path | None, **options: Any
) -> None:
    """Run the ExeScript in INPUT, a JSON array of commands, without a node.

    Prints the results as the REST API gives them; fails when a command did.
    """
    if options["requestor_pub_key"] is not None:
        raise NotSupported("--requestor-pub-key (SGX) is not supported")
    if image is not None and not image.is_file():
        raise UsageError(f"--image: there is no file {image}")
    from shem.exeunit.from_file import FINISHED, FileRun, read_script, write_agreement
    from shem.exeunit.service import Setup
    from shem.kernel.world import new_hex_id

    script, world = read_script(input_file), World()
    with tempfile.TemporaryDirectory(prefix="shem-exe-unit-") as spare:
        work_dir = (options["work_dir"] or Path(spare, "work")).absolute()
        cache_dir = (options["cache_dir"] or Path(spare, "cache")).absolute()
        for directory in (work_dir, cache_dir):
            directory.mkdir(parents=True, exist_ok=True)
        setup = Setup(
            activity_id=options["service_id"] or new_hex_id(world.rng),
            report_url=options["report_url"],
            agreement_file=options["agreement"] or write_agreement(Path(spare, "agreement.json")),
            work_dir=work_dir,
            cache_dir=cache_dir,
            gsb_url=setting("GSB_URL", "GSB_URL") or DEFAULT_GSB_URL,
            runtime=choice,
        )
        image = None if image is None else image.absolute()
        outcome = asyncio.run(_run(lambda: FileRun(setup, script, world, image)))
    click.echo(json.dumps(outcome.results, indent=2, default=list))
    if outcome.ended != FINISHED:
        click.echo(f"Error: {outcome.ended}", err=True)
    if not outcome.ok:
        raise SystemExit(1)


@exe_unit.command("offer-template")
@click.pass_obj
def offer_template(choice: "RuntimeChoice") -> None:
    """Print what an Offer can say of this ExeUnit."""
    click.echo(json.dumps(asyncio.run(choice.offer_template(World()))))


@exe_unit.command("test")
@click.pass_obj
def test(choice: "RuntimeChoice") -> None:
    """Check that the runtime works on this machine."""
    click.echo(asyncio.run(choice.check(World())))


async def _serve(setup: "Setup") -> None:
    from shem.exeunit.service import ExeUnit

    unit = ExeUnit(setup, World())
    _end_by_signal(unit)
    asyncio.get_running_loop().add_signal_handler(FINISHING_SIGNAL, unit.finish)
    await unit.serve()


async def _run(make: "Callable[[], FileRun]") -> "Outcome":
    run = make()
    _end_by_signal(run)
    return await run.run()


def _end_by_signal(unit: "ExeUnit") -> None:
    loop = asyncio.get_running_loop()
    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, unit.end, f"Interrupted by signal: {int(number)}")
