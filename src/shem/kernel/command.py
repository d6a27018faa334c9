"""How to start another part of shem: the command that belongs to this Python."""

import sys
from pathlib import Path


def own_command() -> tuple[str, ...]:
    """Return the command line of `shem`, to which a sub-command is added."""
    script = Path(sys.executable).with_name("shem")
    if script.exists():
        return (sys.executable, str(script))
    return (sys.executable, "-c", "from shem.cli.main import main; main()")
