"""Latencies in slices: what is noise and what a verdict, at which rates is asked, and the load that neighbours put on."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from loadtests.gateway.load.neighbour import Neighbour, asked
from loadtests.gateway.load.neighbours import Kind, neighbour
from loadtests.gateway.load.paced import Paced
from loadtests.gateway.load.priority import put_first
from loadtests.gateway.neighbourhood import KINDS, ORDINARY, Cost
from loadtests.gateway.rows import hostile, isolation, latency, slices
from loadtests.gateway.rows.compared import unless_late
from loadtests.scoreboard import Row

Slices = list[np.ndarray[tuple[int], np.dtype[np.float64]]]


def some(level: float, rounds: int = 6, seed: int = 0, spread: float = 0.01) -> Slices:
    chance = np.random.default_rng(seed or round(level))
    return [chance.normal(level, level * spread, 400) for _ in range(rounds)]


def runs(level: float, late: float = 1.0) -> list[Paced]:
    return [Paced(one, np.full(one.shape, late), 0.1) for one in some(level)]


def test_slices_are_taken_in_another_order_each_round_and_the_first_round_does_not_count() -> None:
    taken: list[str] = []

    def measure(name: str) -> Paced:
        taken.append(name)
        return Paced(np.array([float(len(taken))]), np.array([0.0]), 0.1)

    names = "abcde"
    found = slices.in_turns({name: partial(measure, name) for name in names}, 4, lambda _: None)
    turns = ["".join(taken[at : at + 5]) for at in range(0, 25, 5)]
    assert [sorted(turn) for turn in turns] == [list(names)] * 5
    assert len(set(turns)) > 1
    assert all(len(one) == 4 and one[0].latencies[0] > 5 for one in found.values())


def test_equal_cases_differ_by_little_and_the_worst_of_many_by_more() -> None:
    one, other = some(100.0, seed=1), some(100.0, seed=2)
    noise = slices.noise_of_equals(50, one, other)
    assert 0 < noise < 0.01
    assert slices.noise_of_equals(50, one, other, among=8) >= noise
    assert slices.noise_of_equals(50, one, some(120.0)) == pytest.approx(0.2, abs=0.02)


def test_the_noise_of_a_ratio_is_about_that_ratio() -> None:
    assert slices.noise_of_ratio(50, some(300.0), some(100.0)) < 0.01
    restless = [rounds for level in range(200, 401, 40) for rounds in some(float(level), rounds=1)]
    assert slices.noise_of_ratio(50, restless, some(100.0)) > 0.1


def test_a_verdict_is_given_beyond_the_noise_and_within_it_where_there_is_little() -> None:
    assert slices.verdict(1.1, 1.2, 0.05) is True
    assert slices.verdict(1.22, 1.2, 0.05) is None
    assert slices.verdict(1.3, 1.2, 0.05) is False
    assert slices.verdict(1.1, 1.2, 0.5) is None
    assert slices.verdict(0.5, 1.2, 0.5) is True
    assert slices.verdict(3.0, 1.2, 0.5) is False
    assert slices.verdict(9.0, 1.2, 0.6) is None


def test_a_hostile_shadow_is_judged_by_the_worst_case_and_not_within_the_noise() -> None:
    cases = hostile._cases()
    calm = {name: some(100.0, seed=at + 1) for at, name in enumerate((hostile.PLAIN, hostile.AGAIN, *cases))}
    row = hostile.judged(50, calm)
    assert row.met is True
    assert row.ratio == pytest.approx(1, abs=0.01)
    hurt = hostile.judged(50, calm | {"deaf 100 %": some(130.0)})
    assert hurt.met is False
    assert hurt.work.endswith("the worst, deaf 100 %")
    assert len(hurt.peers) == len(cases) + 1
    noisy = calm | {hostile.AGAIN: some(150.0), "deaf 100 %": some(130.0)}
    assert hostile.judged(50, noisy).met is None


def test_a_neighbour_is_judged_beside_an_ordinary_one() -> None:
    names = (isolation.ALONE, *KINDS, isolation.AGAIN)
    calm = {name: some(100.0, seed=at + 1) for at, name in enumerate(names)} | {isolation.ALONE: some(60.0)}
    row = isolation.judged(50, calm)
    assert row.met is True
    assert row.peers[isolation.ALONE] < 70
    hurt = isolation.judged(50, calm | {"one with heads of 60 KB": some(150.0)})
    assert hurt.met is False
    assert hurt.ratio == pytest.approx(1.5, abs=0.02)
    assert "the worst, one with heads of 60 KB" in hurt.work
    assert isolation.judged(99, calm | {"one with heads of 60 KB": some(1_000.0)}).met is True
    assert isolation.judged(99, calm | {"one with heads of 60 KB": some(1_200.0)}).met is False
    assert isolation.unless_full(hurt, 0.5) == hurt
    assert isolation.unless_full(hurt, 0.8).met is None
    assert isolation.unless_harmless(hurt, {"one": 0.9, "other": 0.6}) == hurt
    assert isolation.unless_harmless(hurt, {"one": 0.9, "other": 0.2}).goal.endswith("other put on 20% of its load")


def test_neighbours_take_the_same_share_of_the_core_and_leave_the_other_one_some_rest() -> None:
    share, rates = isolation.affordable({"small": Cost(20.0, 15.0), "large": Cost(2_000.0, 1_000.0)})
    assert share == isolation.SHARE
    assert rates == pytest.approx({"small": 20_000, "large": 200})
    share, rates = isolation.affordable({"small": Cost(20.0, 60.0), "large": Cost(2_000.0, 1_000.0)})
    assert share == pytest.approx(0.2)
    assert rates == pytest.approx({"small": 10_000, "large": 100})


def test_proxies_are_asked_at_the_largest_share_that_leaves_the_other_core_some_rest() -> None:
    full = {"fast": 40_000.0, "slow": 10_000.0}
    probed: list[tuple[str, float]] = []

    def others_micros(name: str, rate: float) -> float | None:
        probed.append((name, rate))
        return None if rate > 16_000 else 80.0  # at 12,000/s 0.96 of the core, at 10,000 0.8

    assert latency.affordable(full, others_micros) == 0.25
    assert probed == [("fast", 20_000), ("fast", 16_000), ("fast", 12_000), ("fast", 10_000), ("slow", 2_500)]
    assert latency.affordable(full, lambda _, __: 1.0) == latency.SHARES[0]
    assert latency.affordable(full, lambda _, __: None) == latency.SHARES[-1]


def test_latencies_are_judged_beside_envoy() -> None:
    found = {"Tidegate": runs(100.0), "Envoy": runs(200.0), latency.BARE: runs(40.0)}
    (row,) = latency.judged("w", 99, found, 1.2)
    assert row.met is True
    assert row.ratio == pytest.approx(0.5, abs=0.02)
    (row,) = latency.judged("w", 99, found | {"Envoy": runs(50.0)}, 1.2)
    assert row.met is False
    (row,) = latency.judged("w", 99, found | {latency.BARE: runs(40.0, late=80.0)}, 1.2)
    assert row.met is True, "even if only Envoy's figure had the 80 µs in it"
    (row,) = latency.judged("w", 99, found | {latency.BARE: runs(40.0, late=150.0)}, 1.2)
    assert row.met is None
    (row,) = latency.judged("w", 99, found, None)
    assert row.met is None
    assert latency.judged("w", 99, {"Tidegate": runs(100.0), latency.BARE: runs(40.0)}, 1.2) == []


def test_what_is_late_by_itself_is_no_verdict_on_latency() -> None:
    row = Row("w", "µs", 100.0, {"Envoy": 90.0}, 1.1, "≤ 1.2 × Envoy", met=True)
    assert unless_late(row, 99, runs(50.0, late=40.0)) == row
    late = unless_late(row, 99, runs(50.0, late=60.0))
    assert late.met is None
    assert late.goal.endswith("left 60 µs late at p99")
    beside = Row("w", "µs", 100.0, {"Envoy": 90.0, "no proxy": 50.0}, 1.1, "≤ 1.2 × Envoy", met=True)
    assert unless_late(beside, 99, runs(50.0, late=40.0)).met is None
    assert unless_late(beside, 99, runs(50.0, late=40.0), peer="Envoy") == beside


def test_what_is_put_first_goes_before_all_others_where_that_is_allowed() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        policy = os.SCHED_RR if put_first([process.pid]) else os.SCHED_OTHER
        assert os.sched_getscheduler(process.pid) == policy
        process.kill()


# The load ---------------------------------------------------------------------------------------------------------------


class Refusing:
    """Answers each connection's first request once it has come whole, and ends the connection."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                made, _ = self._listener.accept()
            except OSError:
                return  # closed
            with made:
                left = self._size
                while left > 0 and (got := made.recv(1 << 20)):
                    left -= len(got)
                made.sendall(b"HTTP/1.1 431 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)


SIZES = ((1_024, 0), (1_024, 70_000), (5_000_000, 0))


@pytest.fixture(params=SIZES)
def refusing(request: pytest.FixtureRequest) -> Iterator[tuple[Refusing, bytes]]:
    body, head = request.param
    raw = asked("/", body, head)
    one = Refusing(len(raw))
    yield one, raw
    one.close()


def test_a_neighbour_makes_a_connection_anew_that_was_ended(refusing: tuple[Refusing, bytes]) -> None:
    server, raw = refusing
    one = Neighbour(server.port, raw, rate=200.0, connections=2)
    try:
        while one.answered(431) < 10:
            one.turn()
        account = one.stop()
    finally:
        one.close()
    assert account.statuses == {"431": account.statuses["431"]}
    assert account.sent >= account.statuses["431"] >= 10


def test_a_head_is_as_large_as_it_is_asked_to_be() -> None:
    raw = asked("/", 2, 60_000)
    assert abs(raw.index(b"\r\n\r\n") - 60_000) <= 2
    assert raw.endswith(b"\r\n\r\nxx")
    assert len(asked("/", 2, 10)) == len(asked("/", 2, 0))


def test_a_neighbour_begins_when_it_is_told_and_says_what_became_of_its_requests() -> None:
    raw = asked(Kind("e").path, 1_024, 0)
    server = Refusing(len(raw))
    try:
        with neighbour(server.port, Kind("e", until=431, connections=2), 500.0, None) as one:
            for _ in range(2):
                one.begin()
                account = one.stop()
                assert account.sent >= account.statuses["431"] >= 1
    finally:
        server.close()


def test_a_neighbour_that_cannot_connect_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with (
        neighbour(port, KINDS[ORDINARY], 500.0, None) as one,
        pytest.raises(RuntimeError, match="ConnectionRefusedError"),
    ):
        one.begin()
