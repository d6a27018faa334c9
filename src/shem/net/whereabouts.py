"""From which own address we talk to whom, and what becomes of that when the network changes."""

from collections.abc import Callable, Iterable
from typing import Final

from shem.net.outputs import Address

KNOWN_MAX: Final = 4_096
"""Addresses whose own counterpart is remembered; beyond, a change is found by probing."""


class Whereabouts:
    """`ask` returns the own address towards another one, None when there is no way to it."""

    def __init__(self, ask: Callable[[Address], str | None]) -> None:
        self._ask = ask
        self._own: dict[Address, str] = {}
        self._away: set[Address] = set()

    def note(self, address: Address) -> None:
        """Remember how we talk to an address that has just answered."""
        own = self._ask(address)
        if own is not None and (address in self._own or len(self._own) < KNOWN_MAX):
            self._own[address] = own
            self._away.discard(address)

    def look(self, addresses: Iterable[Address]) -> tuple[set[Address], set[Address]]:
        """Forget all but these; return to which we talk from another address, and again at all."""
        moved: set[Address] = set()
        back: set[Address] = set()
        known = {address: self._own[address] for address in addresses if address in self._own}
        for address, before in known.items():
            own = self._ask(address)
            if own is None:
                self._away.add(address)
                continue
            if own != before:
                moved.add(address)
                known[address] = own
            elif address in self._away:
                back.add(address)
            self._away.discard(address)
        self._own = known
        self._away &= known.keys()
        return moved, back
