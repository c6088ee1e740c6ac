"""How every process of the service logs: one line an entry, as text or as JSON.

In JSON the names of the fields are a promise, docs/operate.md lists them: people build searches and
alarms on them. A line written in the middle of a traced request or task carries its trace. What is
secret is not logged in the first place, see `tests/e2e/test_secrets.py`; what looks like a secret
is masked all the same, because the texts of other people's errors end up in logs too.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from service.contract.settings import Settings
from service.contract.tracing import current_trace

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MASK = "***"
OURS = ("framepack", "service", "worker")
"""Packages whose lines below INFO are shown where FRAMEPACK_LOG_LEVEL asks for them."""

_ABOUT: ContextVar[Mapping[str, str | int]] = ContextVar("about", default=MappingProxyType({}))

_RENAMED = {
    "levelname": "level",
    "name": "logger",
    "exc_info": "exception",
    "stack_info": "stack",
}
_SECRET = re.compile(
    r"""
    (?<=\bfp_[0-9a-f]{12}_)\w+                  # an API key, but for its id
    | (?<=\bwhsec_)[\w+/=-]+                    # a webhook's signing secret
    | (?<=\bBearer\ )[\w.~+/=-]+
    | (?<=://)[^\s/:@"\\]*:[^\s/@"\\]+(?=@)     # user and password in a URL
    | (?<=signature=)[^\s&"\\]+                 # of a link, ours or the store's
    | (?<=credential=)[^\s&"\\]+
    | (?<=security-token=)[^\s&"\\]+
    | (?<=[?&]token=)[^\s&"\\]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def configure(settings: Settings, service: str) -> None:
    """Log to standard error from now on, warnings and what ends this process included.

    Args:
        settings: Say how, and from which level on.
        service: The process's name, as in its traces.
    """
    handler = _Masking(sys.stderr)
    handler.setFormatter(_Json(service) if settings.log_format == "json" else _Text(TEXT))
    root = logging.getLogger()
    for before in root.handlers[:]:
        root.removeHandler(before)
    root.addHandler(handler)
    # What others say below INFO is their requests, signatures included.
    root.setLevel(max(logging.INFO, logging.getLevelName(settings.log_level)))
    for ours in OURS:
        logging.getLogger(ours).setLevel(settings.log_level)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


@contextmanager
def about(**fields: str | int | None) -> Iterator[None]:
    """What is logged inside is about this: fields of each line, but for those that are None."""
    known = {name: value for name, value in fields.items() if value is not None}
    token = _ABOUT.set({**_ABOUT.get(), **known})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def masked(text: str) -> str:
    """The text with what looks like a secret made unreadable."""
    return _SECRET.sub(MASK, text)


class _Masking(logging.StreamHandler[Any]):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _Text(logging.Formatter):
    """For people: what a line is about stands behind its message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides
        about = "".join(f" {name}={value}" for name, value in _ABOUT.get().items())
        return super().formatMessage(record) + about


class _Json(JsonFormatter):
    """One JSON object a line."""

    def __init__(self, service: str) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields=_RENAMED,
            static_fields={"service": service},
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat()
        super().add_fields(log_data, record, message_dict)
        log_data["process"] = record.process
        log_data.update(_ABOUT.get())
        log_data.update(current_trace())


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("service").critical("the process ends", exc_info=(kind, error, trace))
