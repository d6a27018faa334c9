"""Logs an operator can act on: `event key=value`, ids always under the same key, no secrets.

Standard error gets text for people on a terminal, and one JSON object a line otherwise when
`SHEM_LOG=json`. `SHEM_LOG_LEVEL` (default `info`) sets the level.
"""

import logging
import os
import sys
from typing import Final

import structlog

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure() -> None:
    """Set up structlog for a command-line process."""
    level = LEVELS.get(os.environ.get("SHEM_LOG_LEVEL", "info").lower(), logging.INFO)
    renderer: structlog.typing.Processor
    if os.environ.get("SHEM_LOG") == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
