"""`shem provider run`: the provider agent as a process (docs/protocol/provider-agent.md §2.2).

Every option has the name and the environment variable that operators of other agents know. What is
in the operator's files (presets, hardware, who may rent) is changed by `shem provider preset` and
its sisters, also while this runs.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import click

from shem.kernel import log as logs
from shem.kernel.config import DEFAULT_API_URL, DEFAULT_GSB_URL, flag, setting
from shem.kernel.errors import UsageError
from shem.provider.config import (
    DEFAULT_AGREEMENTS_MAX,
    DEFAULT_DATA_DIR,
    DEFAULT_IDLE_S,
    DEFAULT_PAYMENT_PLATFORM,
    DEFAULT_SUBNET,
    DEFAULT_TERMINATION_S,
    PLATFORMS_MAX,
    ProviderConfig,
    Terms,
    note_options,
    platform_of,
)
from shem.provider.durations import parse_duration, show_duration
from shem.provider.keystore import cert_dir_of
from shem.provider.policy import manifests_are_checked

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
ACCEPT_TIMEOUT_MIN_S: Final = 5.0
DATA_DIR: Final = "provider.data_dir"
"""Where the group keeps its own --data-dir in the context."""
CERT_DIR: Final = "provider.cert_dir"
"""And its --cert-dir."""

TERMS: Final = {
    "expiration_min_s": ("min-agreement-expiration", "What an agreement lives at least"),
    "expiration_max_s": ("max-agreement-expiration", "What an agreement lives at most"),
    "expiration_without_deadline_max_s": (
        "max-agreement-expiration-without-deadline",
        "The same, for one that costs something and names no deadline for debit notes",
    ),
    "accept_timeout_s": (
        "debit-note-acceptance-deadline",
        "How soon debit notes must be accepted",
    ),
    "note_interval_s": ("debit-note-interval", "How often debit notes come"),
    "note_interval_min_s": ("min-debit-note-interval", "The least that a requestor may ask for"),
    "note_interval_max_s": ("max-debit-note-interval", "The most"),
    "payment_timeout_s": ("payment-timeout", "How soon is to be paid"),
    "payment_timeout_min_s": ("min-payment-timeout", "The least that a requestor may ask for"),
    "payment_timeout_max_s": ("max-payment-timeout", "The most"),
    "payment_timeout_required_s": (
        "payment-timeout-required-duration",
        "Agreements that cost something and live so long must say when they pay",
    ),
    "absence_max_s": (
        "max-requestor-absence",
        "How long an agreement may let its requestor be away",
    ),
    "retention_s": ("result-retention", "How long results are kept after an agreement's end"),
    "retention_max_s": ("max-result-retention", "The most that a requestor may ask for"),
}
"""Options of the negotiable terms, by the field of `Terms`."""

Command = Callable[..., Any]


def term_options(command: Command) -> Command:
    """Add an option for every term."""
    for term in reversed(fields(Terms)):
        option, text = TERMS[term.name]
        assert isinstance(term.default, float)
        default = show_duration(term.default)
        variable = option.upper().replace("-", "_")
        command = click.option(f"--{option}", term.name, help=f"{text} [{variable}, {default}].")(
            command
        )
    return command


@click.command()
@click.option("--app-key", help="The node's application key [YAGNA_APPKEY].")
@click.option("--api-url", help=f"The node's REST API [YAGNA_API_URL, {DEFAULT_API_URL}].")
@click.option("--data-dir", help=f"Where the agent keeps its state [DATA_DIR, {DEFAULT_DATA_DIR}].")
@click.option("--node-name", help="How the provider calls itself [NODE_NAME].")
@click.option("--subnet", help=f"The subnet to offer in [SUBNET, {DEFAULT_SUBNET}].")
@click.option("--account", help="Where payments go [YA_ACCOUNT, the node's id].")
@click.option(
    "--payment-network",
    "--payment-platform",
    multiple=True,
    help=f"Network or platform to be paid on [YA_PAYMENT_NETWORK, {DEFAULT_PAYMENT_PLATFORM}].",
)
@click.option("--exe-unit-path", help="Runtime descriptors [EXE_UNIT_PATH, the built-in ones].")
@click.option(
    "--max-simultaneous-agreements",
    type=click.IntRange(1, 1_000),
    help=f"[MAX_SIMULTANEOUS_AGREEMENTS, {DEFAULT_AGREEMENTS_MAX}]",
)
@click.option("--rt-cores", help="The most threads to offer [YA_RT_CORES, the machine's].")
@click.option("--rt-mem", help="The most GiB of memory [YA_RT_MEM, the machine's].")
@click.option("--rt-storage", help="The most GiB of storage [YA_RT_STORAGE, the machine's].")
@term_options
@click.option(
    "--idle-agreement-timeout",
    help="How long an agreement may stand idle "
    f"[IDLE_AGREEMENT_TIMEOUT, {show_duration(DEFAULT_IDLE_S)}].",
)
@click.option(
    "--process-termination-timeout",
    help="How long an ExeUnit may take to end "
    f"[PROCESS_TERMINATION_TIMEOUT, {show_duration(DEFAULT_TERMINATION_S)}].",
)
@click.option(
    "--auto-cleanup-activity",
    is_flag=False,
    flag_value="true",
    type=click.BOOL,
    help="Remove the files of an activity when it has ended [AUTO_CLEANUP_ACTIVITY, false].",
)
@click.option(
    "--auto-cleanup-agreement",
    is_flag=False,
    flag_value="true",
    type=click.BOOL,
    help="The same, when its agreement has ended [AUTO_CLEANUP_AGREEMENT, false].",
)
@click.option(
    "--policy-disable-component",
    multiple=True,
    help="manifest_signature_validation, or all: grant what manifests want to reach, whatever the "
    "rules say [POLICY_DISABLE_COMPONENT].",
)
@click.option(
    "--policy-trust-property",
    multiple=True,
    help="golem.runtime.capabilities=inet: the same [POLICY_TRUST_PROPERTY].",
)
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> None:
    """Offer this machine and run what is rented.

    Ends on SIGTERM; the ExeUnits go on and are taken up again at the next start.
    """
    options["data_dir"] = options["data_dir"] or ctx.meta.get(DATA_DIR)
    options["cert_dir"] = ctx.meta.get(CERT_DIR)
    logs.configure()
    asyncio.run(_serve(load_config(options)))


def data_dir_of(option: str | None) -> Path:
    """Return where the provider's state and files are."""
    chosen = option or setting("PROVIDER_DATA_DIR", "DATA_DIR") or DEFAULT_DATA_DIR
    return Path(chosen).expanduser().absolute()


def load_config(options: dict[str, Any]) -> ProviderConfig:
    """Gather the settings from options and the environment."""

    def pick(option: str, name: str, alias: str) -> str | None:
        return options.get(option) or setting(name, alias)

    def seconds(option: str, name: str, default_s: float) -> float:
        text = pick(option, name, name)
        return default_s if text is None else parse_duration(text, name)

    def is_on(option: str) -> bool:
        stated: bool | None = options.get(option)
        return _is_on(option.upper()) if stated is None else stated

    app_key = pick("app_key", "APPKEY", "YAGNA_APPKEY")
    if app_key is None:
        raise UsageError("the agent needs an application key: --app-key or YAGNA_APPKEY")
    limit = pick("max_simultaneous_agreements", *["MAX_SIMULTANEOUS_AGREEMENTS"] * 2)
    cores = _number(pick("rt_cores", "RT_CORES", "YA_RT_CORES"), "YA_RT_CORES")
    caps = (
        None if cores is None else int(cores),
        _number(pick("rt_mem", "RT_MEM", "YA_RT_MEM"), "YA_RT_MEM"),
        _number(pick("rt_storage", "RT_STORAGE", "YA_RT_STORAGE"), "YA_RT_STORAGE"),
    )
    data_dir = data_dir_of(options.get("data_dir"))
    return ProviderConfig(
        app_key=app_key,
        data_dir=data_dir,
        cert_dir=cert_dir_of(data_dir, options.get("cert_dir")),
        api_url=pick("api_url", "API_URL", "YAGNA_API_URL") or DEFAULT_API_URL,
        gsb_url=setting("GSB_URL", "GSB_URL") or DEFAULT_GSB_URL,
        node_name=pick("node_name", "NODE_NAME", "NODE_NAME"),
        subnet=pick("subnet", "SUBNET", "SUBNET"),
        account=pick("account", "ACCOUNT", "YA_ACCOUNT"),
        payment_platforms=_platforms(options.get("payment_network") or ()),
        exe_unit_path=pick("exe_unit_path", "EXE_UNIT_PATH", "EXE_UNIT_PATH"),
        agreements_max=DEFAULT_AGREEMENTS_MAX
        if limit is None
        else int(_number(limit, "MAX_SIMULTANEOUS_AGREEMENTS") or 1),
        caps=caps,
        terms=_terms(seconds),
        idle_agreement_s=seconds(
            "idle_agreement_timeout", "IDLE_AGREEMENT_TIMEOUT", DEFAULT_IDLE_S
        ),
        termination_s=seconds(
            "process_termination_timeout", "PROCESS_TERMINATION_TIMEOUT", DEFAULT_TERMINATION_S
        ),
        nursery=flag("EXE_UNIT_NURSERY", default=True),
        clears_activities=is_on("auto_cleanup_activity"),
        clears_agreements=is_on("auto_cleanup_agreement"),
        manifests_are_checked=manifests_are_checked(
            *(
                options.get(name) or [setting(name.upper(), name.upper()) or ""]
                for name in ("policy_disable_component", "policy_trust_property")
            )
        ),
    )


def _is_on(variable: str) -> bool:
    """Read an environment variable that says yes or no, in the words of other agents."""
    text = setting(variable, variable) or "false"
    if text.lower() not in {"true", "false", "1", "0"}:
        raise UsageError(f"{variable} {text!r} is not true or false")
    return text.lower() in {"true", "1"}


def _platforms(stated: Sequence[str]) -> tuple[str, ...]:
    """Return the payment platforms: of the option, or of the environment."""
    found = list(stated)
    if not found:
        text = setting("PAYMENT_PLATFORM", "YA_PAYMENT_NETWORK", "PAYMENT_PLATFORM")
        found = [] if text is None else text.replace(",", " ").split()
    names = tuple(dict.fromkeys(map(platform_of, found))) or (DEFAULT_PAYMENT_PLATFORM,)
    if len(names) > PLATFORMS_MAX:
        raise UsageError(f"--payment-network: at most {PLATFORMS_MAX} payment platforms")
    return names


def _terms(seconds: Callable[[str, str, float], float]) -> Terms:
    values = {}
    for term in fields(Terms):
        assert isinstance(term.default, float)
        variable = TERMS[term.name][0].upper().replace("-", "_")
        values[term.name] = seconds(term.name, variable, term.default)
    terms = Terms(**values)
    if terms.accept_timeout_s < ACCEPT_TIMEOUT_MIN_S:
        raise UsageError(
            f"DEBIT_NOTE_ACCEPTANCE_DEADLINE must be {ACCEPT_TIMEOUT_MIN_S:g} s or more"
        )
    return terms


def _number(text: str | int | None, name: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"{name} {text!r} is not a number") from error
    if not 0 < value <= 1e10:
        raise UsageError(f"{name} {text!r} is not above 0 and at most 1e10")
    return value


async def _serve(config: ProviderConfig) -> None:
    """Run the agent until a signal comes."""
    from shem.kernel.world import World
    from shem.provider.agent import Agent
    from shem.provider.descriptor import load_descriptors, working
    from shem.provider.hardware import measure
    from shem.rest.client import RestClient
    from shem.store.datadir import hold_datadir

    world = World()
    with hold_datadir(config.data_dir, what="shem provider"):
        note_options(config)
        descriptors = await working(load_descriptors(config.exe_unit_path))
        async with RestClient(config.api_url, config.app_key) as client:
            agent = Agent(config, descriptors, measure(config.data_dir), client, world)
            await run_until_signal(agent)


async def run_until_signal(agent: Any) -> None:
    """Run; on a signal withdraw the offers and leave the ExeUnits running."""
    import structlog

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)

    from shem.kernel.tasks import TaskScope

    async with TaskScope() as scope:
        scope.spawn(agent.run(), "agent")
        await stopped.wait()
        await agent.withdraw()
        structlog.get_logger().info(
            "agent.down", note="ExeUnits are left running; the next start takes them up again"
        )
