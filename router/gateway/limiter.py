"""An endpoint's classes of requests, rate and concurrency, exact over all workers of the machine, before a deployment is chosen.

The numbers stand on the board, each worker writes its own: what it let in and from when it counts (they outlive a worker), and
how many are inside (they go with it). A change of rate or burst begins with a full bucket.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from router.gateway.board import Quantity
from router.gateway.ranking import Classes
from router.gateway.responses import Refusal
from router.policy.rating import Bucket

if TYPE_CHECKING:
    from router.contract.limits import Limits, Priorities
    from router.gateway.exchange import Exchange
    from router.gateway.state import State

_SECOND = 1_000_000_000
_REAP_NS = 100_000_000
"""Between two looks for workers that died with requests inside."""


@cache
def _boot() -> str:
    """Times on the board are those of one boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Limiter:
    """Of one endpoint in one worker."""

    __slots__ = (
        "_bucket", "_classes", "_closed", "_columns", "_inside", "_inside_cell", "_most_inside", "_name", "_origin_cell",
        "_reaped", "_state", "_steps", "_taken_cell",
    )  # fmt: skip

    def __init__(self, state: State, endpoint: str) -> None:
        self._state = state
        self._name = endpoint
        self._bucket: Bucket | None = None
        self._classes: Classes | None = None
        self._columns: tuple[str, ...] = ()
        """Names of the bucket's columns."""
        self._taken_cell = self._origin_cell = 0
        self._steps = state.board.steps
        self._most_inside = 0
        self._inside: set[Exchange] = set()
        self._inside_cell = self._cell(self._inside_column(), Quantity.GAUGE)
        self._closed = False
        self._reaped = 0

    def _inside_column(self) -> str:
        return f"{self._name}#inside"

    def _cell(self, name: str, quantity: Quantity) -> int:
        board = self._state.board
        return board.row + board.column(name, quantity)

    def configure(self, limits: Limits | None, priorities: Priorities | None) -> None:
        """Hold these from now on; None for none."""
        self._classes = Classes(priorities) if priorities is not None else None
        self._most_inside = limits.concurrent_requests or 0 if limits is not None else 0
        before, self._columns = self._columns, ()
        self._bucket = None
        if limits is not None and limits.requests_per_second is not None:
            bucket = Bucket(limits.requests_per_second, limits.burst_requests())
            what = f"{self._name}#{bucket.millirate}/{bucket.burst}/{self._state.settings.workers}/{_boot()}"
            self._columns = (f"{what}#taken", f"{what}#origin")
            self._taken_cell = self._cell(self._columns[0], Quantity.BALANCE)
            self._origin_cell = self._cell(self._columns[1], Quantity.LATEST)
            self._bucket = bucket
        for name, quantity in zip(before, (Quantity.BALANCE, Quantity.LATEST), strict=False):
            self._state.board.let_go(name, quantity)

    def is_idle(self) -> bool:
        """Whether nothing is limited and nobody inside has been counted."""
        return self._bucket is None and self._classes is None and not self._most_inside and not self._inside

    def admit(self, exchange: Exchange) -> bool:
        """Whether it may pass; else it has been refused."""
        if self._classes is not None:
            exchange.rank = self._classes.rank(exchange)
            if self._state.pressed and exchange.rank == self._classes.lowest:
                exchange.refuse(Refusal.OVERLOADED, "this gateway has much to do, and the lowest class goes last")
                return False
        bucket, cells = self._bucket, self._state.board.cells
        taken = origin = tokens = 0
        now = exchange.arrival
        if bucket is not None:
            own, first = self._taken_cell, self._origin_cell
            taken = cells[own] + sum([cells[own + step] for step in self._steps])
            known = max(cells[first], *[cells[first + step] for step in self._steps], 0)
            origin = bucket.origin(now, taken, known)
            if origin > known:
                cells[self._origin_cell] = origin
            tokens = bucket.tokens(now, taken, origin)
            if tokens < 1:
                self._refuse_rate(exchange, bucket, bucket.next_token(now, taken, origin))
                return False
        if self._most_inside and not self._enter(exchange):
            text = (
                f"{self._most_inside} requests of the endpoint are in flight or queued, its limits.concurrent_requests"
            )
            exchange.refuse(Refusal.CONCURRENCY, text)
            return False
        if bucket is not None:
            cells[self._taken_cell] += 1
            exchange.reply.tell(_fields(bucket, tokens - 1, bucket.full(now, taken + 1, origin)))
        return True

    @staticmethod
    def _refuse_rate(exchange: Exchange, bucket: Bucket, wait: int) -> None:
        fields = _fields(bucket, 0, wait) + b"retry-after: %d\r\n" % _seconds(wait)
        text = f"more than {bucket.millirate / 1000:g} requests per second, the endpoint's limits.requests_per_second"
        exchange.refuse(Refusal.RATE, text, fields)

    def _enter(self, exchange: Exchange) -> bool:
        """Take a place. Stores first and looks then, so that two workers never both take the last."""
        cells, own = self._state.board.cells, self._inside_cell
        for attempt in range(2):
            cells[own] += 1
            if cells[own] + sum([cells[own + step] for step in self._steps]) <= self._most_inside:
                self._inside.add(exchange)
                return True
            cells[own] -= 1
            if attempt or not self._steps or exchange.arrival - self._reaped < _REAP_NS:
                break
            self._reaped = exchange.arrival
            if not self._state.board.reap():
                break
        return False

    def leave(self, exchange: Exchange) -> None:
        """A request of the endpoint is over, counted or not."""
        if exchange in self._inside:
            self._inside.discard(exchange)
            self._state.board.cells[self._inside_cell] -= 1
            self._end_if_over()

    def close(self) -> None:
        """Nothing is limited any more; the board gets its columns back when the last one inside has left."""
        self.configure(None, None)
        self._closed = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._closed and not self._inside:
            self._state.board.let_go(self._inside_column(), Quantity.GAUGE)


def _seconds(nanoseconds: int) -> int:
    return max(1, -(-nanoseconds // _SECOND))


def _fields(bucket: Bucket, remaining: int, reset: int) -> bytes:
    """The three fields of draft-ietf-httpapi-ratelimit-headers-06. `reset`: nanoseconds."""
    fields = b"ratelimit-limit: %d\r\nratelimit-remaining: %d\r\nratelimit-reset: %d\r\n"
    return fields % (bucket.burst, max(0, remaining), -(-reset // _SECOND))
