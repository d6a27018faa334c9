"""`python -m shem.devnet.payload [DIRECTORY]`: pack mandel.zip and print its task package."""

import sys
from pathlib import Path

from shem.devnet.payload import write_package

directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
sys.stdout.write(write_package(directory).task_package + "\n")
