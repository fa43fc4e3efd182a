"""Structured logs: one JSON object per line on stdout, or readable lines on a terminal.

What is bound with `structlog.contextvars` (`flow`, `event`, `user`) is on every line of that task.
Bodies, tokens and passwords are never logged: nothing passes them, and `_without_secrets` is the net.
"""

import json
import logging
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRETS = frozenset(
    {"password", "token", "access_token", "authorization", "secret", "private_key", "private_jwk", "body"}
)


def _without_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in _SECRETS.intersection(map(str.lower, event)):
        for spelling in [key for key in event if key.lower() == name]:
            event[spelling] = "[withheld]"
    return event


def _json(_: WrappedLogger, __: str, event: EventDict) -> str:
    """In ASCII where it holds what a terminal would obey, or half a surrogate pair: an error's text may."""
    try:
        line = orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode("utf-8")
    except orjson.JSONEncodeError:
        line = ""
    return line if line and line.isprintable() else json.dumps(event, default=str, skipkeys=True)


def configure(service: str, level: str = "INFO", *, terminal: bool | None = None) -> None:
    """For the whole process, once, at its start: ours and the standard library's loggers alike."""

    def named(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        named,
        _without_secrets,
    ]
    if sys.stdout.isatty() if terminal is None else terminal:
        # Plain tracebacks: the pretty ones print local variables, passwords among them.
        plain = structlog.dev.plain_traceback
        rendering: list[Processor] = [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    else:
        rendering = [structlog.processors.format_exc_info, _json]

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    _route_standard_library(handler, level)
    structlog.configure(
        processors=[*common, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


def _route_standard_library(handler: logging.Handler, level: str) -> None:
    """Libraries that brought handlers of their own (uvicorn, Faust) lose them and use the root's."""
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True
    # The edge logs requests itself.
    logging.getLogger("uvicorn.access").disabled = True
    # Every look at the log logs in anew, and aiokafka says so.
    logging.getLogger("aiokafka.conn").setLevel(logging.ERROR)


def get(**bound: Any) -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**bound)
    return logger
