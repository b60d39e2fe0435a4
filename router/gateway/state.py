"""What the parts of one worker share. Nothing here waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from router.gateway.calls import Calls
from router.gateway.refusals import Refusals
from router.gateway.responses import date_line
from router.gateway.turns import Turns
from router.policy.matching import Table
from router.runtime.replica_tls import Trust

if TYPE_CHECKING:
    from router.gateway.board import Board
    from router.gateway.calls import Answer
    from router.gateway.connections import Connections
    from router.gateway.doorbell import Doorbell
    from router.gateway.records import Ledger
    from router.gateway.routes import Endpoint
    from router.gateway.tee import Tee
    from router.gateway.timers import Wheel
    from router.gateway.tracing import Tracer
    from router.gateway.tunnel import Tunnel
    from router.runtime.log.base import Log
    from router.runtime.settings import GatewaySettings


_LOW: Final = tuple(b"%03x" % low for low in range(4096))
"""The last three digits of request ids: formatting twelve for each request costs more than looking three up."""


@dataclass(slots=True)
class Counters:
    """What the worker has done since its start; cheap enough to count always."""

    connections: int = 0
    handshakes: int = 0
    handshakes_failed: int = 0
    requests: int = 0
    retried: int = 0
    unreachable: int = 0
    erring: int = 0
    lagging: int = 0
    hedged: int = 0
    hedges_won: int = 0
    """Times replicas were left alone because they could not be reached, because of errors in a row, and because of
    errors more often than others."""
    client_aborts: int = 0
    shadows_opened: int = 0
    shadows_dropped: int = 0
    shortened: int = 0
    """Records that lack path, user agent and the caller's own id, because their message had too many different ones."""


class Connection(Protocol):
    """A caller's, whatever is spoken on it."""

    @property
    def transport(self) -> asyncio.Transport:
        """What to abort in the end."""
        ...

    def leave_if_idle(self, since: int) -> None:
        """The worker stops: end now if nothing has come since the monotonic time `since`."""
        ...


class State:
    """One worker. `table` is the routing snapshot: swapped whole, never changed."""

    # Written out, not a dataclass: what reads annotations while it runs cannot be compiled beside modules that need it.

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        board: Board,
        wheel: Wheel,
        doorbell: Doorbell,
        tee: Tee,
        doors: Connections,
        chance: Callable[[], float],
        request_id_prefix: bytes,
        report_now: Callable[[Endpoint], None],
        report_soon: Callable[[Endpoint], None],
    ) -> None:
        self.settings = settings
        self.log = log
        self.loop = loop
        self.board = board
        self.wheel = wheel
        self.turns = Turns(loop)
        self.doorbell = doorbell
        self.tee = tee
        self.trust = Trust(settings.replica_ca, settings.replica_cert, settings.replica_key)
        self.doors = doors
        self.chance = chance
        self.report_now = report_now
        """Append the endpoint's demand at once: somebody waits and nothing is ready, or a drain has begun."""
        self.report_soon = report_soon
        """The same a moment later, with what comes meanwhile: requests begin to queue."""
        self.table: Table[Endpoint] = Table({}, {})
        self.awake: dict[Endpoint, None] = {}
        """Endpoints where something has happened or is inside that has not been reported yet."""
        self.ledgers: list[Ledger] = []
        """Those with records."""
        self.calls = Calls(settings.scheme.encode())
        self.http2_calls = Calls(settings.scheme.encode(), "2")
        self.answers: dict[bytes, Answer] = {}
        self.connections: set[Connection] = set()
        self.tunnels: set[Tunnel] = set()
        """Of those connections the ones that speak WebSocket."""
        self.counters = Counters()
        self.refusals = Refusals()
        self.tracer: Tracer | None = None
        """Where spans go; None = nobody wants any."""
        self.sequence = 0
        self.ready = False
        self.upstreams = 0
        """Connections to replicas: open, being opened, being closed."""
        self.stopping = False
        self.closing = False
        """Connections end with their answers: the worker stops, or is short of something."""
        self.pressed = False
        """Requests of the lowest class are refused."""
        self.shedding = False
        """New requests are refused."""
        self.held_bytes = 0
        """Request bodies of waiting requests."""
        self.idle_ns = int(settings.idle_seconds * 1e9)
        self.head_ns = int(settings.header_seconds * 1e9)
        self.send_ns = int(settings.send_seconds * 1e9)
        self.date = b""
        """The Date field of this second, with its line end."""
        self._second = 0
        self._id_prefix = request_id_prefix
        """36 - 12 characters of every request id; the last twelve are the sequence."""
        self._id_front = b""
        self.renew_date()

    def renew_date(self) -> None:
        """Let `date` tell the present second; for many times a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self.date = date_line(second)

    def request_id(self, sequence: int) -> bytes:
        """The worker's boot id and the sequence, which is one more than at the last call."""
        low = sequence & 0xFFF
        if not low or not self._id_front:
            self._id_front = b"%b%09x" % (self._id_prefix, sequence >> 12)
        return self._id_front + _LOW[low]
