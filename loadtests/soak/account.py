"""What became of every request: it went well, or a cause explains its end, or nothing does: then it is a fault of Tidegate."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

BROKEN, STATUS, WRONG, LATE = "broken", "status", "wrong", "late"
_MEMORY = 20_000
"""Latencies that are kept per kind, and answers' ids."""


@dataclass(slots=True)
class Request:
    """One request from its beginning to its end."""

    id: str
    kind: str
    endpoint: str
    started: float
    repeatable: bool = True
    """Whether all of it fits into what the gateway keeps for sending it again, and its answer is one small piece."""
    ended: float = 0.0
    gateway: int = 0
    """The port that was called."""
    port: int = 0
    """Our end of its connection."""
    opening: float = 0.0
    """When its connection was asked for."""
    opened: float = 0.0
    idle: float = 0.0
    """How long the connection had been quiet before."""
    heard: bool = False
    """Whether any byte had ever come on the connection."""
    deployment: str = ""
    """By the answer's field."""
    replica: int = 0
    """Process id of the model that answered, by the answer's field."""
    status: int = 0
    code: str = ""
    """Of the gateway's own refusals; of a WebSocket's end."""
    how: str = ""
    what: str = ""


class Cause(Protocol):
    """Something done that may cost requests."""

    name: str

    def explains(self, request: Request) -> bool:
        """Whether this request's failure is its doing."""


@dataclass(slots=True)
class Kind:
    """Of one kind of request."""

    asked: int = 0
    ok: int = 0
    explained: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_MEMORY))


@dataclass(slots=True)
class Account:
    """Of all requests."""

    kinds: defaultdict[str, Kind] = field(default_factory=lambda: defaultdict(Kind))
    failures: list[Request] = field(default_factory=list)
    """What ended otherwise than asked, judged at the end."""
    causes: list[Cause] = field(default_factory=list)
    under_way: dict[str, Request] = field(default_factory=dict)
    resent: int = 0
    """Pipelined behind an answer that says `connection: close` (RFC 9112, 9.3.2), or streams behind a GOAWAY (RFC 9113, 6.8), and sent
    again on another connection.
    """
    streams_at_once: int = 0
    """Most on one connection of HTTP/2."""
    faults: list[str] = field(default_factory=list)
    """What is wrong beside requests, in words."""
    started: float = field(default_factory=time.monotonic)
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1 << 62)))
    _gateway_ids: dict[str, None] = field(default_factory=dict)

    def begin(self, kind: str, endpoint: str) -> Request:
        """A request that is about to be sent."""
        request = Request(f"r{next(self._numbers)}", kind, endpoint, time.monotonic())
        self.kinds[kind].asked += 1
        self.under_way[request.id] = request
        return request

    def ok(self, request: Request) -> None:
        """It ended as it must."""
        request.ended = time.monotonic()
        del self.under_way[request.id]
        kind = self.kinds[request.kind]
        kind.ok += 1
        kind.seconds.append(request.ended - request.started)

    def failed(self, request: Request, how: str, what: str) -> None:
        """It ended otherwise."""
        request.ended = time.monotonic()
        request.how, request.what = how, what
        del self.under_way[request.id]
        self.failures.append(request)

    def fault(self, text: str) -> None:
        """Something is wrong that is no request's end."""
        self.faults.append(f"{time.monotonic() - self.started:8.2f} s  {text}")

    def first_time(self, gateway_id: str) -> bool:
        """Whether no answer had this id of the gateway before."""
        if gateway_id in self._gateway_ids:
            return False
        self._gateway_ids[gateway_id] = None
        if len(self._gateway_ids) > _MEMORY:
            del self._gateway_ids[next(iter(self._gateway_ids))]
        return True

    @property
    def asked(self) -> int:
        """Requests so far."""
        return sum(kind.asked for kind in self.kinds.values())

    def judge(self) -> Verdict:
        """Find each failure's cause; to be called once, when nothing is under way any more."""
        explained: Counter[str] = Counter()
        unexplained: list[Request] = []
        for request in self.failures:
            cause = next((one for one in self.causes if one.explains(request)), None)
            if cause is None:
                unexplained.append(request)
            else:
                explained[cause.name] += 1
                self.kinds[request.kind].explained += 1
        return Verdict(explained, unexplained, sum(kind.ok for kind in self.kinds.values()))

    def told(self, request: Request) -> dict[str, Any]:
        """One request in full; times are seconds since the start."""
        words = asdict(request)
        return words | {
            key: round(words[key] - self.started, 3) for key in ("started", "ended", "opening", "opened") if words[key]
        }

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


@dataclass(slots=True)
class Verdict:
    """Of all requests, one of the three."""

    explained: Counter[str]
    unexplained: list[Request]
    ok: int


Report = Callable[[str], None]
