"""Which version this is, and which version of yagna it stands in for."""

from functools import cache
from importlib import metadata
from typing import Final

YAGNA_VERSION: Final = "0.17.6"
"""What clients that ask for yagna's version are told: they refuse what is too old for them."""


@cache
def shem_version() -> str:
    return metadata.version("shem")
