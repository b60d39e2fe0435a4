"""What the soak takes for an explanation, and what it does not."""

from __future__ import annotations

import time

import pytest

from loadtests.soak.account import BROKEN, STATUS, Account, Cause, Request
from loadtests.soak.causes import (
    LEAVES,
    DeploymentGone,
    ReplicaKilled,
    ReplicasReplaced,
    WorkerKilled,
    WorkerStops,
)
from loadtests.soak.vitals import GROWTH_BYTES, LEAST_SECONDS, Sample, slope, trend

INSIDE = frozenset({4001})
KILL = WorkerKilled(1, stopped=10.0, ports=INSIDE, dead=10.2)
STOP = WorkerStops(1, begun=10.0, gone=12.0)
DEATH = ReplicaKilled(77, "mix", "blue", at=10.0)
GONE = DeploymentGone("mix", "canary", begun=10.0, over=11.0)
HANDED = WorkerStops(1, begun=10.0, gone=12.0, ports=INSIDE, handed_over=True)
REPLACED = ReplicasReplaced("chat", "socket", begun=10.0, over=20.0)


def broken(**more: object) -> Request:
    request = Request(
        "r", "json", "mix", started=9.9, ended=10.1, port=4001, opening=3.0, opened=3.0, heard=True, how=BROKEN
    )
    for name, value in more.items():
        setattr(request, name, value)
    return request


@pytest.mark.parametrize(
    ("cause", "request_", "explained"),
    [
        (KILL, broken(), True),
        (KILL, broken(port=4002), False),
        (KILL, broken(started=10.3, ended=10.4), True),
        (KILL, broken(started=10.3, ended=10.4, opening=10.3, opened=10.3), False),
        (KILL, broken(ended=9.95), False),
        (KILL, broken(port=4002, heard=False, opened=10.1), True),
        (KILL, broken(port=4002, heard=False, opening=10.15, opened=10.3, started=10.1), True),
        (KILL, broken(port=4002, heard=False, opening=10.3, opened=10.3, started=10.3), False),
        (KILL, broken(how=STATUS, status=502, code="ReplicaFailed"), False),
        (STOP, broken(), False),
        (STOP, broken(heard=False, opened=10.5), True),
        (STOP, broken(idle=0.6, started=10.5), True),
        (STOP, broken(idle=0.1, started=10.5), False),
        (STOP, broken(idle=0.6, started=10.5, status=200), False),
        (STOP, broken(gateway=8443, heard=False, opened=10.5), False),
        (HANDED, broken(heard=False, opened=10.5), False),
        (HANDED, broken(idle=0.6, started=10.5), True),
        (HANDED, broken(how=STATUS, status=101, code=LEAVES), True),
        (HANDED, broken(how=STATUS, status=101, code=LEAVES, port=4002), False),
        (HANDED, broken(how=STATUS, status=101, code=LEAVES, port=4002, opened=10.05), True),
        (HANDED, broken(how=STATUS, status=101, code=LEAVES, ended=30.0), False),
        (REPLACED, broken(how=STATUS, code=LEAVES, endpoint="chat", deployment="socket"), True),
        (REPLACED, broken(how=STATUS, code="WebSocket 1002", endpoint="chat", deployment="socket"), False),
        (REPLACED, broken(how=STATUS, code=LEAVES, endpoint="mix", deployment="blue"), False),
        (DEATH, broken(replica=77), True),
        (DEATH, broken(replica=78), False),
        (DEATH, broken(how=STATUS, code="ReplicaFailed", deployment="blue", repeatable=False), True),
        (DEATH, broken(how=STATUS, code="ReplicaFailed", deployment="blue"), False),
        (DEATH, broken(how=STATUS, code="ReplicaFailed", deployment="green", repeatable=False), False),
        (GONE, broken(how=STATUS, code="DeploymentNotFound", what="404 … named 'canary'"), True),
        (GONE, broken(how=STATUS, code="DeploymentNotFound", what="404 … named 'blue'"), False),
    ],
)
def test_a_cause_explains_what_it_can_have_touched_and_nothing_else(
    cause: Cause, request_: Request, explained: bool
) -> None:
    assert cause.explains(request_) == explained


def test_a_failure_without_a_cause_is_unexplained_and_told_in_full() -> None:
    account = Account()
    good, bad = account.begin("json", "mix"), account.begin("json", "mix")
    account.ok(good)
    account.failed(bad, BROKEN, "the connection ended")
    verdict = account.judge()
    assert (verdict.ok, verdict.explained.total(), verdict.unexplained) == (1, 0, [bad])
    assert account.told(bad)["what"] == "the connection ended"
    assert account.under_way == {}


def test_an_answers_id_of_the_gateway_is_known_again() -> None:
    account = Account()
    assert account.first_time("a")
    assert account.first_time("b")
    assert not account.first_time("a")


def memory(per_second: float, noise: int = 0, seconds: int = int(2 * LEAST_SECONDS)) -> list[Sample]:
    return [Sample(at, int(50e6 + per_second * at) + noise * (at % 7), 30, 100 * at) for at in range(seconds)]


def test_growth_is_told_from_noise() -> None:
    grown, noisy = trend("gateway 0", 1, memory(2 * GROWTH_BYTES / LEAST_SECONDS)), trend("up", 2, memory(0, 400_000))
    assert grown is not None
    assert not grown.flat
    assert grown.per_hour == pytest.approx(2 * GROWTH_BYTES / LEAST_SECONDS * 3600, rel=0.01)
    assert noisy is not None
    assert noisy.flat


def test_a_short_life_says_nothing() -> None:
    assert trend("gateway 0", 1, memory(1e6, seconds=int(LEAST_SECONDS))) is None


def test_the_slope_ignores_what_sticks_out() -> None:
    points = [(float(x), 2.0 * x) for x in range(100)]
    points[50:70] = [(x, 1e9) for x, _ in points[50:70]]
    assert slope(points) == pytest.approx(2.0)
    assert slope([(1.0, 5.0)]) == 0.0


def test_times_are_told_since_the_start() -> None:
    account = Account(started=time.monotonic() - 5)
    assert 4.9 < account.now() < 60
