"""From a log's URL to the log: `embedded:DIR` or `kafka://…`. The one place that knows which implementations there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from router.contract.errors import InvalidSpec, Problem
from router.runtime.log.base import Log
from router.runtime.log.kafka_url import FORM, SCHEMES, KafkaUrl, parse

FORMS = ("embedded:DIR", FORM)
SPOOL_BYTES = "TIDEGATE_SPOOL_BYTES"
LEAST_SPOOL_BYTES = 1 << 20


def open_log(
    url: str,
    *,
    spool: Path | None = None,
    role: str = "log",
    instance: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Log:
    """Open the log that `url` names, a Kafka one by way of the folder `spool`, whose shipper runs elsewhere.

    `role` and `instance` name this process towards brokers: what it is, and who it is over its restarts. Raises
    `InvalidSpec` for a URL or a setting nobody can mean, `Unavailable` when the log cannot be opened.
    """
    where = check_url(url)
    # Imported here, because a process opens one kind of log and should not carry the others.
    if isinstance(where, KafkaUrl):
        from router.runtime.log.embedded_writer import WriterSettings
        from router.runtime.log.kafka import KafkaLog

        if spool is None:
            raise ValueError("a log on Kafka needs the folder of its spool")
        settings = WriterSettings(outgoing=True, spool_bytes=spool_bytes(environ))
        return KafkaLog(where, spool, role=role, instance=instance, environ=environ, settings=settings)
    from router.runtime.log.embedded import EmbeddedLog

    return EmbeddedLog(where)


def check_url(url: str) -> Path | KafkaUrl:
    """What `url` names, without opening it: a folder, or brokers. Raises as `open_log` does."""
    if url.lower().startswith(SCHEMES):
        return parse(url)
    scheme, _, rest = url.partition(":")
    if scheme == "embedded":
        folder = rest.removeprefix("//")
        if not folder:
            raise _invalid(url, "name the folder of the log: embedded:DIR")
        return Path(folder)
    raise _invalid(url, f"unknown kind of log; known are {' and '.join(FORMS)}")


def spool_bytes(environ: Mapping[str, str]) -> int:
    """How much may wait for the broker, from `$TIDEGATE_SPOOL_BYTES`; 1 GiB by default. Raises `InvalidSpec`."""
    text = environ.get(SPOOL_BYTES)
    if text is None:
        return 1 << 30
    if not (text.isascii() and text.isdigit() and LEAST_SPOOL_BYTES <= int(text) < 1 << 50):
        message = f"a whole number of bytes, at least {LEAST_SPOOL_BYTES}"
        raise InvalidSpec([Problem(field=SPOOL_BYTES, message=message, value=text)])
    return int(text)


def _invalid(url: str, message: str) -> InvalidSpec:
    # A mistyped kafka:// URL may hold a password.
    return InvalidSpec([Problem(field="log", message=message, value=None if "@" in url else url)])
