"""Log lines: one line per record on stderr, `time level role logger message key=value`, secrets never among them.

`TIDEGATE_LOG_FORMAT=json` writes one JSON object per line instead; `TIDEGATE_LOG_LEVEL` names the least level
(default INFO). Fields travel as `extra={...}`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from router.runtime.clock import Clock, SystemClock

REDACTED = "[redacted]"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_NAME = re.compile(
    r"(?i)^(?:proxy[-_])?authorization$|^(?:set[-_])?cookie$|password|passwd|secret|credential"
    r"|^(?:access|api|auth|bearer|primary|secondary|private|shadow)?[-_]?(?:key|keys|token|tokens)$"
)
_NAMES = (
    r"(?:proxy[-_])?authorization|(?:set[-_])?cookie|password|passwd|client[-_]?secret|secret"
    r"|(?:access|api|auth|primary|secondary|private|shadow)[-_]?(?:key|token)"
)
# A name, then `:` or `=`, then the value with its scheme, quoted or bare; quotes may be escaped inside JSON.
_ASSIGNED = re.compile(
    rf"(?i)\b({_NAMES})(\\*['\"]?\s*[:=]\s*\\*['\"]?)(?:(?:bearer|basic|token)\s+)?[^\s'\"\\,;&}}\]]+"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")


def redact(text: str) -> str:
    """`text` without the values of Authorization headers, cookies, keys, tokens and passwords it holds."""
    text = _ASSIGNED.sub(rf"\1\2{REDACTED}", text)
    return _SCHEME.sub(rf"\1 {REDACTED}", text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {name: REDACTED if _SECRET_NAME.search(name) else value for name, value in found.items()}


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _quoted(value: Any) -> str:
    text = str(value)
    return text if text and not re.search(r"[\s\"=]", text) else json.dumps(text, ensure_ascii=False)


class _Formatter(logging.Formatter):
    """What both forms share: the role, the exception as text, redaction of the finished line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role

    def _exception(self, record: logging.LogRecord) -> str:
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return record.exc_text or ""


class LineFormatter(_Formatter):
    """For people: `2026-01-31T12:00:00.000Z INFO gateway listening port=8080`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the record holds."""
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        fields = _fields(record)
        exception = self._exception(record)
        if exception:
            fields["exception"] = exception
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in fields.items())
        return redact(f"{_time(record)} {record.levelname} {self.role} {message}{pairs}")


class JsonFormatter(_Formatter):
    """For machines: the same as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object, without a line break in it."""
        body = {
            "time": _time(record),
            "level": record.levelname,
            "role": self.role,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        exception = self._exception(record)
        if exception:
            body["exception"] = exception
        return json.dumps(_clean(body), default=lambda value: redact(str(value)), ensure_ascii=False)


def _clean(value: Any) -> Any:
    """Redacted inside the strings, so that the line stays JSON."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(k): REDACTED if _SECRET_NAME.search(str(k)) else _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


def configure(role: str, *, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Send every log record of this process to `stream` (stderr by default), marked with `role`. May be repeated."""
    form = environ.get("TIDEGATE_LOG_FORMAT", "line").strip().lower()
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(role) if form == "json" else LineFormatter(role))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    level = environ.get("TIDEGATE_LOG_LEVEL", "INFO").strip().upper()
    root.setLevel(level if level in logging.getLevelNamesMapping() else "INFO")
    # A handler that fails (stderr is a closed pipe) must not take the process with it, nor print tracebacks for it.
    logging.raiseExceptions = False


class Limited:
    """A logger that writes at most one line per second and code, and says how many it kept back. Thread-safe."""

    def __init__(self, logger: logging.Logger, *, seconds: float = 1.0, clock: Clock | None = None) -> None:
        self._logger = logger
        self._seconds = seconds
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._codes: dict[str, tuple[float, int]] = {}

    def log(self, level: int, code: str, message: str, *, error: BaseException | None = None, **fields: Any) -> bool:
        """Write one line with `code` and `fields`, unless this code was written less than a second ago.

        Returns whether it was written. Codes are a small fixed set: the memory of each stays.
        """
        now = self._clock.monotonic()
        with self._lock:
            written, suppressed = self._codes.get(code, (-self._seconds + now, 0))
            if now - written < self._seconds:
                self._codes[code] = (written, suppressed + 1)
                return False
            self._codes[code] = (now, 0)
        extra = {"code": code, **fields, **({"suppressed": suppressed} if suppressed else {})}
        self._logger.log(level, "%s", message, extra=extra, exc_info=error)
        return True

    def warning(self, code: str, message: str, **fields: Any) -> bool:
        """`log` at WARNING."""
        return self.log(logging.WARNING, code, message, **fields)

    def error(self, code: str, message: str, *, error: BaseException | None = None, **fields: Any) -> bool:
        """`log` at ERROR, with the traceback of `error`."""
        return self.log(logging.ERROR, code, message, error=error, **fields)
