"""All offers of this provider: one for each active preset, as long as there is something to give.

What is to be offered follows from the operator's files and the resource ledger; whenever either
changes, offers that no longer hold are withdrawn and missing ones are published. Running agreements
are not touched by any of this.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from shem.kernel.errors import UsageError
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider.agreements import Agreements
from shem.provider.config import ProviderConfig
from shem.provider.descriptor import Descriptor
from shem.provider.hardware import Capacity, Machine, capacity, capped
from shem.provider.negotiator import OFFER_SETTING, Negotiator
from shem.provider.offer import OfferText, build_offer, is_free
from shem.provider.patience import until_answered
from shem.provider.presets import Preset
from shem.provider.records import Records
from shem.provider.settings import Settings, SettingsWatch
from shem.provider.verdicts import Limits
from shem.rest.client import RestClient

LOOK_PERIOD_S: Final = 2.0
"""How often the operator's files are looked at."""
FULL_HOLD_S: Final = 2.0
"""How long this provider must be full before its offers are withdrawn: an agreement that comes to
nothing is no reason, and who negotiates is told that there is no capacity."""

Template = Callable[[Descriptor], Awaitable[Mapping[str, Any]]]
"""Asks a runtime for its part of an Offer."""

log = structlog.get_logger()


class Offers:
    """Keeps the right offers up."""

    def __init__(
        self,
        *,
        config: ProviderConfig,
        machine: Machine,
        descriptors: Sequence[Descriptor],
        watch: SettingsWatch,
        agreements: Agreements,
        records: Records,
        client: RestClient,
        world: World,
        scope: TaskScope,
        node_id: str,
        template: Template,
    ) -> None:
        self._ask_template = template
        self._config = config
        self._machine = machine
        self._descriptors = {descriptor.name: descriptor for descriptor in descriptors}
        self._watch = watch
        self._agreements = agreements
        self._records = records
        self._client = client
        self._world = world
        self._scope = scope
        self._node_id = node_id
        self._templates: dict[str, Mapping[str, Any]] = {}
        self._wanted: dict[str, OfferText] = {}
        self._running: dict[str, Negotiator] = {}
        self._limits = Limits(platforms=config.payment_platforms, terms=config.terms)
        self._full_since: float | None = None

    async def run(self, settings: Settings) -> None:
        """Keep the offers of the operator's files up, for ever."""
        await self._take(settings)
        await self._forget_others()
        clock = self._world.clock
        looked_s = clock.monotonic()
        while True:
            self._agreements.changed.clear()
            await self._arrange()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_PERIOD_S):
                    await self._agreements.changed.wait()
            if clock.monotonic() - looked_s < LOOK_PERIOD_S:
                continue
            looked_s = clock.monotonic()
            changed = self._watch.changed()
            if changed is not None:
                log.info("settings.changed", presets=list(changed.presets.active))
                await self._take(changed)

    async def withdraw(self) -> None:
        """Take all offers back."""
        await asyncio.gather(*(running.withdraw() for running in self._running.values()))

    async def _take(self, settings: Settings) -> None:
        """Work out what is to be offered."""
        self._limits = Limits(
            self._config.payment_platforms,
            self._config.terms,
            settings.access,
            settings.whitelist,
            settings.keystore,
            self._config.manifests_are_checked,
        )
        given = capacity_of(settings, self._machine, self._config)
        self._agreements.capacity = given
        status = await until_answered("net status", self._client.net.status, self._world)
        who = self._config.stated.over(settings.globals)
        self._wanted = {}
        for preset in settings.presets.offered:
            try:
                self._wanted[preset.name] = build_offer(
                    config=self._config,
                    who=who,
                    machine=self._machine,
                    share=given.share,
                    preset=preset,
                    descriptor=self._descriptor(preset),
                    template=await self._template(preset.exeunit_name),
                    account=(who.address or self._node_id).lower(),
                    is_public=status.public_ip is not None,
                )
            except UsageError as error:
                log.warning("preset.not_offered", preset=preset.name, reason=error.message)
        _warn_of_prices(self._wanted)

    async def _arrange(self) -> None:
        """Withdraw and publish until what runs is what is wanted."""
        wanted = {} if self._is_full() else self._wanted
        for name, running in tuple(self._running.items()):
            if name not in wanted or running.offer.properties != wanted[name].properties:
                del self._running[name]
                await running.withdraw()
                log.info("offer.withdrawn", offer=name)
        for name, text in wanted.items():
            if name not in self._running:
                negotiator = self._negotiator(name, text)
                self._running[name] = negotiator
                self._scope.spawn(negotiator.run(), f"offer {name}")

    def _is_full(self) -> bool:
        """Whether there has been nothing to give for a while."""
        ledger = self._agreements.ledger
        if ledger.shortage(ledger.capacity.share) is None:
            self._full_since = None
            return False
        now = self._world.clock.monotonic()
        if self._full_since is None:
            self._full_since = now
        return now - self._full_since >= FULL_HOLD_S

    def _negotiator(self, name: str, text: OfferText) -> Negotiator:
        return Negotiator(
            name=name,
            offer=text,
            limits=lambda: self._limits,
            agreements=self._agreements,
            records=self._records,
            client=self._client,
            world=self._world,
        )

    async def _forget_others(self) -> None:
        """Withdraw what an earlier agent published and this one does not offer."""
        for setting, kept in (await self._records.settings(OFFER_SETTING)).items():
            if setting.removeprefix(OFFER_SETTING) not in self._wanted:
                negotiator = self._negotiator(
                    setting.removeprefix(OFFER_SETTING), OfferText({}, ())
                )
                await negotiator.withdraw_earlier(kept)

    def _descriptor(self, preset: Preset) -> Descriptor:
        found = self._descriptors.get(preset.exeunit_name)
        if found is None:
            there = ", ".join(self._descriptors)
            raise UsageError(
                f"there is no runtime {preset.exeunit_name!r} that works (there are: {there})"
            )
        return found

    async def _template(self, runtime: str) -> Mapping[str, Any]:
        if runtime not in self._templates:
            self._templates[runtime] = await self._ask_template(self._descriptors[runtime])
        return self._templates[runtime]


def capacity_of(settings: Settings, machine: Machine, config: ProviderConfig) -> Capacity:
    """Return what the active profile gives away on this machine."""
    seen = capped(machine.resources, config.caps)
    return capacity(settings.profile, seen, agreements_max=config.agreements_max)


def _warn_of_prices(wanted: Mapping[str, OfferText]) -> None:
    for name, text in wanted.items():
        if not is_free(text.properties):
            log.warning(
                "preset.costs",
                preset=name,
                note="payments are not supported yet: nothing is billed",
            )
