"""Scripts keep to the manifest of their agreement (docs/protocol/provider-agent.md §5.8). Pure.

What the requestor has bound itself to is checked before a batch is accepted, whole: of a script
with one command too many nothing is run.
"""

from shem.exeunit.commands import Kind
from shem.exeunit.script import Script
from shem.rest.manifest import Manifest
from shem.rest.patterns import Budget


def require_compliance(script: Script, manifest: Manifest | None) -> None:
    """Refuse a script that holds a command which the manifest does not name: a UsageError."""
    if manifest is None or manifest.script is None:
        return
    rules, budget = manifest.script, Budget()
    for command in script.commands:
        if command.kind is Kind.RUN:
            rules.require_run(command.entry_point, command.args, budget)
        elif command.kind is Kind.TRANSFER:
            assert command.transfer is not None
            rules.require_transfer(command.transfer.source, command.transfer.target, budget)
