"""The table of commands, and how errors end a command.

Exit codes (docs/exit-codes.md): 0 done; 1 refused or failed; 2 wrong usage; 3 the node does not
answer; 4 no answer in time; 5 not supported; 6 the activity has ended; 130 interrupted.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

from shem.kernel.errors import NotSupported, ShemError, TimedOut, Unreachable, UsageError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "node": ("shem.cli.node:node", "Run the node daemon."),
    "relay": ("shem.cli.relay:relay", "Run a relay server."),
    "provider": ("shem.cli.provider:provider", "Run the provider agent: presets, prices, …"),
    "exe-unit": ("shem.exeunit.command:exe_unit", "Run one activity (started by the agent)."),
    "devnet": ("shem.devnet.command:devnet", "Run a whole network on this machine."),
    "id": ("shem.cli.identity:identity", "Manage identities: create, lock, export, import, …"),
    "app-key": ("shem.cli.app_keys:app_key", "Manage application keys."),
    "market": ("shem.cli.market:market", "Show and end what this node trades."),
    "activity": ("shem.cli.activity:activity", "Rented activities: ps, attach, exec, logs, …"),
    "net": ("shem.cli.net:net", "Look at the network: status, sessions, find, ping."),
    "gftp": ("shem.cli.gftp:gftp", "Move files between nodes, as SDKs ask for it."),
    "broker": ("shem.cli.later:broker", "Run the payment broker (not supported yet)."),
}

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_TIMED_OUT: Final = 4
EXIT_NOT_SUPPORTED: Final = 5
EXIT_GONE: Final = 6
EXIT_INTERRUPTED: Final = 130


EXIT_OF_CODE: Final = {
    "not-reachable": EXIT_UNREACHABLE,
    "no-answer": EXIT_UNREACHABLE,
    "batch-timeout": EXIT_TIMED_OUT,
    "not-supported": EXIT_NOT_SUPPORTED,
    "activity-gone": EXIT_GONE,
    "agreement-ended": EXIT_GONE,
}
"""For errors of the SDK, which are classes of their own."""


@dataclass(slots=True)
class Options:
    """Options that stand before the sub-command, as yagna's do."""

    json: bool
    datadir: str | None
    gsb_url: str | None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("-d", "--datadir", help="The node's data directory [YAGNA_DATADIR].")
@click.option("-g", "--gsb-url", help="The node's bus socket [GSB_URL].")
@click.version_option(package_name="shem")
@click.pass_context
def cli(ctx: click.Context, as_json: bool, datadir: str | None, gsb_url: str | None) -> None:
    """A Golem Network node whose requestors can go offline."""
    ctx.obj = Options(json=as_json, datadir=datadir, gsb_url=gsb_url)


def exit_code(error: ShemError) -> int:
    """Return the exit code that tells this error apart in a script."""
    table: tuple[tuple[type[ShemError], int], ...] = (
        (UsageError, EXIT_USAGE),
        (Unreachable, EXIT_UNREACHABLE),
        (TimedOut, EXIT_TIMED_OUT),
        (NotSupported, EXIT_NOT_SUPPORTED),
    )
    by_code = EXIT_OF_CODE.get(error.code)
    return next((code for kind, code in table if isinstance(error, kind)), by_code or EXIT_FAILED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        cli.main(args=arguments, prog_name="shem", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except ShemError as error:
        click.echo(f"Error: {error.message}", err=True)
        sys.exit(exit_code(error))
