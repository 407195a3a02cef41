"""How log records leave the process: structlog, readable on a terminal, one JSON object a line otherwise.

Owns the processors and the output. Knows no event. Records go to standard error with one ``write`` each, so that lines
of several processes on one file never mix, and a failed write is forgotten: a full disk or a closed pipe below the log
must not take the server down with it. Whatever the standard library logs (asyncio's "never retrieved") goes the same way.

Rules for those who log: event names are constants with a dot (``learner.synced``), everything else is a key. Integers
under ``zxid``, ``session_id``, ``config_version`` and keys that end in ``_zxid`` are shown in hexadecimal, as operators know them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_STDERR = 2
_SHOWN_IN_HEX = frozenset(("zxid", "session_id", "config_version"))
_LONG_MASK = (1 << 64) - 1


def configure_logging(level: str = "info", descriptor: int = _STDERR) -> None:
    """Set up structlog and the root logger of the standard library; the last call counts.

    Args:
        level: one of ``LEVELS``; records below it cost one comparison.
        descriptor: an open file descriptor; decides between readable lines and JSON by being a terminal or not.
    """
    renderer: structlog.typing.Processor
    if os.isatty(descriptor):
        renderer = structlog.dev.ConsoleRenderer(pad_event_to=28)
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            show_ids_in_hex,
            structlog.processors.format_exc_info,
            put_event_first,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _Output(descriptor),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_StandardLibraryHandler()], level=LEVELS[level], force=True)


def show_ids_in_hex(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The structlog processor behind the rule of the module docstring."""
    for key, value in event_dict.items():
        if (key in _SHOWN_IN_HEX or key.endswith("_zxid")) and type(value) is int:
            event_dict[key] = f"0x{value & _LONG_MASK:x}"
    return event_dict


def put_event_first(
    _logger: object, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Time, level and event lead every JSON line, so that a person can read down a column."""
    leading = {name: event_dict.pop(name) for name in ("timestamp", "level", "event")}
    return {**leading, **event_dict}


class _Output:
    """The logger that structlog wraps: takes a finished line."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, (line + "\n").encode("utf-8", "backslashreplace"))

    debug = info = warning = error = critical = exception = msg


class _StandardLibraryHandler(logging.Handler):
    """Hands records of the logging module to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "python.log",
            logger=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )
