"""`python -m shem.exeunit`: the ExeUnit without the rest of the command line."""

import sys

import click

from shem.exeunit.command import exe_unit
from shem.kernel.errors import ShemError

EXIT_FAILED = 1
EXIT_USAGE = 2

try:
    exe_unit.main(prog_name="shem exe-unit", standalone_mode=False)
except click.ClickException as wrong:
    wrong.show()
    sys.exit(EXIT_USAGE)
except ShemError as error:
    click.echo(f"Error: {error.message}", err=True)
    sys.exit(EXIT_FAILED)
