"""Structured logs: every line carries the ids bound in :mod:`structlog.contextvars`.

Bound are ``request_id``, ``organization_id``, ``job`` and ``lease``. Content of requests and secrets are
never logged.
"""

import logging.config

import structlog

from common.masking import masked


def logging_config(*, level: str, as_json: bool) -> None:
    """Set up structlog and send the standard library's records through the same chain."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        # Not the default traceback, which prints local variables: bodies, tokens.
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "structured": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": [*shared, structlog.stdlib.ExtraAdder()],
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer, _mask],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                # One line per request is written by RequestMiddleware, with ids and without content.
                "django.request": {"level": "CRITICAL"},  # the traceback of a bug: common.http.internal_error
                "django.server": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.beat": {"level": "WARNING"},
            },
        }
    )


def _mask(logger: object, method: str, line: "structlog.typing.EventDict") -> str:
    """Last in the chain, where the event is the line as it will be written."""
    return masked(str(line))
