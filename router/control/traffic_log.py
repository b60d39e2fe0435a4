"""The traffic log: one line of JSON per finished request, in the columns of Azure's AmlOnlineEndpointTrafficLog.

Made from the packed records of `requests` when somebody asks, never on the live path. Columns that Azure does not have come
last. What a full spool has folded is one line per deployment and second, which says of how many requests it stands.
"""

from __future__ import annotations

import datetime as dt
import http
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.contract import codec
from router.contract.errors import InvalidSpec, Problem
from router.contract.events import NEVER_CAME, Flag, RequestCounts, RequestRecord
from router.control.views import time_text
from router.runtime.log.base import Message

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,9})([smhd])")
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Which requests are wanted."""

    endpoint: str | None = None
    """Canonical name; None = of all."""
    deployment: str | None = None
    since_ns: int = 0
    """Unix nanoseconds: only requests that came then or later."""

    def lines_of(self, message: Message) -> list[bytes]:
        """One line per selected request of a message of `requests`; one that cannot be read is a line that says so."""
        if self.endpoint not in (None, message.key):
            return []
        try:
            rows = list(self._rows(message))
        except (codec.UnknownSchema, codec.Malformed) as error:
            rows = [
                {"TimeGenerated": time_text(message.time_ns), "EndpointName": message.key, "Unreadable": str(error)}
            ]
        return [json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows]

    def count(self, message: Message) -> int:
        """How many lines `lines_of` makes of it; without making them, where that needs no reading."""
        if self.endpoint not in (None, message.key):
            return 0
        if self.deployment is None and not self.since_ns and not codec.is_counts(message.value):
            try:
                return len(codec.split_requests(message.value)[1]) // codec.REQUEST_RECORD.size
            except (codec.UnknownSchema, codec.Malformed):
                return 1
        return len(self.lines_of(message))

    def _rows(self, message: Message) -> Iterator[Mapping[str, Any]]:
        if codec.is_counts(message.value):
            for folded in codec.decode_counts(message.value):
                if self._wants(folded.deployment, folded.second * _SECOND):
                    yield _folded(message.key, folded)
            return
        for record in codec.decode_requests(message.value):
            if self._wants(record.deployment, record.start_ns):
                yield row_of(message.key, message.writer, record)

    def _wants(self, deployment: str, at_ns: int) -> bool:
        return self.deployment in (None, deployment) and at_ns >= self.since_ns


def row_of(endpoint: str, writer: str, record: RequestRecord) -> dict[str, Any]:
    """One request as columns. `writer`: of the message, the boot id of the worker that served it."""
    asked = record.profile
    return {
        "TimeGenerated": time_text(record.start_ns),
        "Method": asked.method,
        "Path": asked.path,
        "EndpointName": endpoint,
        "DeploymentName": record.deployment,
        "Protocol": "HTTP/2" if Flag.HTTP2 in record.flags else asked.protocol,
        "ResponseCode": record.status or None,
        "ResponseCodeReason": record.refusal or _PHRASES.get(record.status, ""),
        "ModelStatusCode": record.model_status or None,
        "ModelStatusReason": _PHRASES.get(record.model_status, ""),
        "RequestPayloadSize": record.request_bytes,
        "ResponsePayloadSize": record.response_bytes,
        "UserAgent": asked.user_agent,
        "XRequestId": request_id(writer, record.sequence),
        "XMSClientRequestId": asked.client_request_id,
        "TotalDurationMs": record.total_us / 1000,
        "RequestDurationMs": None if record.request_us == NEVER_CAME else record.request_us / 1000,
        "ResponseDurationMs": record.first_byte_us / 1000 if record.first_byte_us else None,
        "RequestThrottlingDelayMs": 0,
        "ResponseThrottlingDelayMs": 0,
        "AuthType": asked.auth_type,
        "Outcome": record.outcome.name.lower(),
        "QueueDurationMs": record.wait_us / 1000,
        "Replica": record.replica,
        "Flags": [flag.name.lower() for flag in record.flags if flag.name],
    }


def request_id(writer: str, sequence: int) -> str:
    """The `x-request-id` that the gateway worker `writer` (its boot id) gave to its request number `sequence`."""
    return f"{writer[:8]}-{writer[8:12]}-{writer[12:16]}-{writer[16:20]}-{sequence:012x}"


def _folded(endpoint: str, row: RequestCounts) -> dict[str, Any]:
    return {
        "TimeGenerated": time_text(row.second * _SECOND),
        "EndpointName": endpoint,
        "DeploymentName": row.deployment,
        "RequestPayloadSize": row.request_bytes,
        "ResponsePayloadSize": row.response_bytes,
        "FoldedRequests": row.requests,
        "FoldedModelErrors": row.model_errors,
        "FoldedFailures": row.failures,
    }


def since(text: str, now_ns: int) -> int:
    """A moment in Unix nanoseconds: `10m`, `2h`, `1d` before now, or RFC 3339. Raises `InvalidSpec`."""
    found = _DURATION.fullmatch(text)
    if found is not None:
        return max(now_ns - int(found[1]) * _UNITS[found[2]] * _SECOND, 0)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidSpec(
            [Problem("since", "how long ago, as in 90s, 10m, 2h, 1d, or a time as 2026-01-31T12:00:00Z", text)]
        )
    return max(int(moment.timestamp() * _SECOND), 0)
