"""Every answer the gateway gives in its own name: status, stable code, message and whether to come back.

`{"error": {"code", "message"}}`, always with `x-request-id` and `date`; `Retry-After` where trying again helps.
"""

from __future__ import annotations

import email.utils
import enum
import http
import json
from typing import Final

from router.contract.events import Outcome


class Refusal(enum.Enum):
    """status, code, Retry-After seconds (0 = none), outcome of the record."""

    BAD_REQUEST = (400, "BadRequest", 0, Outcome.REFUSED)
    HEAD_TOO_LARGE = (431, "RequestHeaderFieldsTooLarge", 0, Outcome.REFUSED)
    TOO_MANY_FIELDS = (431, "TooManyHeaderFields", 0, Outcome.REFUSED)
    SLOW_HEAD = (408, "RequestHeadTimeout", 0, Outcome.REFUSED)
    BODY_TOO_LARGE = (413, "RequestBodyTooLarge", 0, Outcome.REFUSED)
    SLOW_BODY = (408, "RequestBodyTimeout", 0, Outcome.REFUSED)
    TOO_MANY_CONNECTIONS = (503, "TooManyConnections", 1, Outcome.REFUSED)
    TOO_MANY_OF_CLIENT = (429, "TooManyConnectionsOfClient", 1, Outcome.REFUSED)
    EXPECTATION = (417, "ExpectationFailed", 0, Outcome.REFUSED)
    UPGRADE = (501, "UpgradeNotSupported", 0, Outcome.REFUSED)
    UPGRADE_VERSION = (426, "WebSocketVersionNotSupported", 0, Outcome.REFUSED)
    NO_ENDPOINT = (404, "EndpointNotFound", 0, Outcome.REFUSED)
    NO_DEPLOYMENT = (404, "DeploymentNotFound", 0, Outcome.REFUSED)
    NO_TRAFFIC = (404, "NoDeploymentWithTraffic", 0, Outcome.REFUSED)
    UNAUTHORISED = (401, "Unauthorized", 0, Outcome.REFUSED)
    TOO_MANY = (429, "TooManyRequests", 1, Outcome.QUEUE_FULL)
    RATE = (429, "RateLimitExceeded", 0, Outcome.REFUSED)
    CONCURRENCY = (429, "ConcurrencyLimitExceeded", 1, Outcome.REFUSED)
    DISPLACED = (429, "DisplacedByPriority", 1, Outcome.QUEUE_FULL)
    TOO_MANY_HELD = (429, "TooManyWaiting", 5, Outcome.QUEUE_FULL)
    BODIES_FULL = (429, "WaitingBodiesTooLarge", 1, Outcome.QUEUE_FULL)
    QUEUE_TIMEOUT = (429, "QueueTimeout", 1, Outcome.QUEUE_TIMEOUT)
    NO_REPLICA = (503, "NoReplicaReady", 5, Outcome.NO_REPLICA)
    DEPLOYMENT_FAILED = (503, "DeploymentFailed", 0, Outcome.NO_REPLICA)
    OVERLOADED = (503, "Overloaded", 2, Outcome.REFUSED)
    STOPPING = (503, "Stopping", 1, Outcome.NO_REPLICA)
    DEADLINE_PAST = (408, "DeadlineAlreadyPassed", 0, Outcome.REFUSED)
    """It had passed when the request came."""
    DEADLINE_WAITING = (408, "DeadlineExceededWaiting", 0, Outcome.QUEUE_TIMEOUT)
    """It passed before the request was sent to a replica."""
    DEADLINE = (408, "DeadlineExceeded", 0, Outcome.TIMEOUT)
    MODEL_TIMEOUT = (408, "RequestTimeout", 0, Outcome.TIMEOUT)
    REPLICA_FAILED = (502, "ReplicaFailed", 0, Outcome.UPSTREAM_FAILED)
    BAD_ANSWER = (502, "InvalidReplicaResponse", 0, Outcome.UPSTREAM_FAILED)

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.value[0]

    @property
    def code(self) -> str:
        """The stable word for it, as callers, records, metrics and log lines have it."""
        return self.value[1]

    @property
    def outcome(self) -> Outcome:
        """As the request's record tells it."""
        return self.value[3]


STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def status_line(status: int, reason: bytes) -> bytes:
    """The status line of a passed-on answer, with the replica's own words where it has any."""
    if reason:
        return b"HTTP/1.1 %d %b\r\n" % (status, reason)
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def date_line(unix_seconds: float) -> bytes:
    """The Date field of a moment, with its line end."""
    return b"date: %b\r\n" % email.utils.formatdate(unix_seconds, usegmt=True).encode()


def connection_line(*, close: bool, http10: bool) -> bytes:
    """What the caller must be told about its connection: nothing where it goes without saying."""
    if close:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if http10 else b""


def refuse(refusal: Refusal, message: str, request_id: bytes, *, head_only: bool, extra: bytes) -> bytes:
    """The whole answer. `extra` are further header lines."""
    status, code, retry_after, _ = refusal.value
    body = json.dumps({"error": {"code": code, "message": message}}, separators=(",", ":")).encode()
    parts = [STATUS_LINES[status], b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)]
    parts.append(b"x-request-id: %b\r\n" % request_id)
    if retry_after:
        parts.append(b"retry-after: %d\r\n" % retry_after)
    if refusal is Refusal.UNAUTHORISED:
        parts.append(b'www-authenticate: Bearer realm="tidegate"\r\n')
    elif refusal is Refusal.UPGRADE_VERSION:
        parts.append(b"sec-websocket-version: 13\r\nupgrade: websocket\r\nconnection: Upgrade\r\n")
    parts += (extra, b"\r\n")
    if not head_only:
        parts.append(body)
    return b"".join(parts)


def plain(status: int, text: str, request_id: bytes, *, head_only: bool, extra: bytes) -> bytes:
    """A probe's answer. `extra` are further header lines."""
    body = text.encode()
    head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nx-request-id: %b\r\n" % (
        len(body),
        request_id,
    )
    return b"".join((STATUS_LINES[status], head, extra, b"\r\n", b"" if head_only else body))
