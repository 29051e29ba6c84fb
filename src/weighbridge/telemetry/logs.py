"""Logging: events with fields as JSON lines, or coloured text on a terminal; secrets are cut out at the formatter."""

import logging
import re
import sys
from collections.abc import MutableMapping

import structlog

SECRET = re.compile(
    r"\bwb[a-z]?_(?:mgmt|inf|both|admin)_[A-Za-z0-9_-]+|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bwbw_[A-Za-z0-9_.-]+|(?<=\b[Bb]earer )[A-Za-z0-9._~+/=-]{8,}|\bhf_[A-Za-z0-9]{16,}"
)
"""Our keys, weights tokens, AWS access keys, bearer tokens and model hubs' keys, wherever they stand in a line (T5)."""
_MARKS = ("wb", "AKIA", "ASIA", "earer ", "hf_")
"""One of them is in every text that `SECRET` finds; looking for them is much quicker."""


def redact(line: str) -> str:
    if any(mark in line for mark in _MARKS):
        return SECRET.sub("[secret]", line)
    return line


class _Renderer:
    def __init__(self, inner: structlog.typing.Processor) -> None:
        self._inner = inner

    def __call__(self, logger: object, name: str, event: MutableMapping[str, object]) -> str:
        return redact(str(self._inner(logger, name, event)))


def _console() -> structlog.typing.Processor:
    # The default traceback prints local variables, and with them whatever secret one holds.
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def configure_logs(process: str, level: str) -> None:
    """Send structlog and stdlib logging to stderr; call once, at the start of a process."""
    terminal = sys.stderr.isatty()
    renderer = _Renderer(_console() if terminal else structlog.processors.JSONRenderer())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
