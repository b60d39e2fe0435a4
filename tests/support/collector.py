"""A collector of its own: takes OTLP over HTTP in JSON and reads it with OpenTelemetry's own definitions."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from loadtests.waiting import free_port


@dataclass
class Span:
    """One span as a collector understands it."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    state: str
    start_ns: int
    end_ns: int
    flags: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    error: str | None
    """None where the span has no status."""


@dataclass
class Collector:
    """What came."""

    port: int
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Answers to give before good ones."""
    rejects: int = 0
    requests: int = 0

    @property
    def url(self) -> str:
        """For `--otlp`."""
        return f"http://127.0.0.1:{self.port}"

    def of(self, kind: int) -> list[Span]:
        """Spans of one kind, in order of their beginning."""
        return sorted((one for one in self.spans if one.kind == kind), key=lambda one: one.start_ns)

    async def take(self, request: web.Request) -> web.Response:
        """POST /v1/traces."""
        assert request.content_type == "application/json"
        body = await request.json()
        self.requests += 1
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), text="not now")
        self._read(body)
        answer = {"partialSuccess": {"rejectedSpans": str(self.rejects)}} if self.rejects else {}
        return web.json_response(answer)

    def _read(self, body: Any) -> None:
        message = ParseDict(_with_base64(body), ExportTraceServiceRequest())  # fails for a field that is none
        for resource in message.resource_spans:
            self.resources.append(_attributes(resource.resource.attributes))
            for scope in resource.scope_spans:
                assert scope.scope.name == "tidegate.gateway"
                self.spans += [_span(one) for one in scope.spans]


def _with_base64(body: Any) -> Any:
    """OTLP writes ids in hexadecimal, where JSON of protobuf has base64."""
    if isinstance(body, list):
        return [_with_base64(one) for one in body]
    if not isinstance(body, dict):
        return body
    return {
        key: base64.b64encode(bytes.fromhex(value)).decode()
        if key in ("traceId", "spanId", "parentSpanId")
        else _with_base64(value)
        for key, value in body.items()
    }


def _attributes(pairs: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in pairs}


def _span(one: Any) -> Span:
    return Span(
        one.name, one.kind, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(), one.trace_state,
        one.start_time_unix_nano, one.end_time_unix_nano, one.flags, _attributes(one.attributes),
        [(event.name, _attributes(event.attributes)) for event in one.events],
        one.status.message if one.status.code == 2 else None,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def collector(port: int = 0) -> AsyncIterator[Collector]:
    """It listens; its answers are good."""
    found = Collector(port or free_port())
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", found.port, reuse_address=True).start()
        yield found
    finally:
        await runner.cleanup()


def span_text(number: int, size: int = 0) -> bytes:
    """A span that is told by its number."""
    return json.dumps({
        "traceId": f"{number + 1:032x}", "spanId": f"{number + 1:016x}", "name": f"nr {number}" + "x" * size, "kind": 2,
        "startTimeUnixNano": str(number + 1), "endTimeUnixNano": str(number + 2),
    }).encode()  # fmt: skip
