"""Forgetting what nobody can ask for any more.

docs/protocol/market.md §8.1. Agreements and their logs are kept for 90 days after `validTo`, what
led to them for a day after it expired. In small steps: one unit of work holds up all others.
"""

from typing import Final

import structlog

from shem.kernel.errors import ShemError
from shem.kernel.times import NS_PER_S
from shem.market.context import Context

log = structlog.get_logger()

EVERY_S: Final = 3600.0
NEGOTIATIONS_KEPT_NS: Final = 24 * 3600 * NS_PER_S
AGREEMENTS_KEPT_NS: Final = 90 * 24 * 3600 * NS_PER_S
ROWS_AT_ONCE: Final = 500

_STATEMENTS: Final = (
    "DELETE FROM negotiation_event WHERE event_id IN (SELECT event_id FROM negotiation_event"
    " WHERE event_ns < :negotiations LIMIT :most)",
    "DELETE FROM proposal WHERE proposal_id IN (SELECT proposal_id FROM proposal"
    " WHERE expires_ns < :negotiations LIMIT :most)",
    "DELETE FROM subscription WHERE subscription_id IN (SELECT subscription_id FROM subscription"
    " WHERE expires_ns < :negotiations LIMIT :most)",
    "DELETE FROM agreement_event WHERE agreement_id IN (SELECT agreement_id FROM agreement"
    " WHERE valid_to_ns < :agreements AND state <> 'Approved'"
    " ORDER BY valid_to_ns, agreement_id LIMIT :most)",
    "DELETE FROM agreement WHERE agreement_id IN (SELECT agreement_id FROM agreement"
    " WHERE valid_to_ns < :agreements AND state <> 'Approved'"
    " ORDER BY valid_to_ns, agreement_id LIMIT :most)",
)


async def run(context: Context) -> None:
    """Clean up now and then."""
    while True:
        await context.world.clock.sleep(EVERY_S)
        try:
            await clean_up(context)
        except ShemError as error:
            log.warning("market.cleanup_failed", reason=error.message)


async def clean_up(context: Context) -> None:
    """Delete one step's worth of each kind."""
    now_ns = context.now_ns()
    limits = {
        "negotiations": now_ns - NEGOTIATIONS_KEPT_NS,
        "agreements": now_ns - AGREEMENTS_KEPT_NS,
    }
    async with context.store.unit("market.cleanup") as unit:
        for statement in _STATEMENTS:
            name = "negotiations" if ":negotiations" in statement else "agreements"
            unit.execute(statement, most=ROWS_AT_ONCE, **{name: limits[name]})
