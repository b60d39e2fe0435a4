"""The bench of the gateway, as far as it goes without a peer: what is computed, and loads that run for a moment."""

from __future__ import annotations

import json
import socket
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loadtests.gateway.__main__ import NAMES, main
from loadtests.gateway.load.answers import Unclear, complete, good
from loadtests.gateway.load.descriptors import usable
from loadtests.gateway.load.held import held, source
from loadtests.gateway.load.marks import MARK
from loadtests.gateway.load.open_loop import OpenLoop, request
from loadtests.gateway.load.paced import paced, percentile
from loadtests.gateway.load.stream_source import CHUNK
from loadtests.gateway.plot import svg
from loadtests.gateway.rows.compared import at_least, at_most
from loadtests.gateway.rows.open_streams import plan
from loadtests.gateway.rows.streams import affordable, unless_missing
from loadtests.measure import Spread
from loadtests.scoreboard import Row
from loadtests.waiting import free_port

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Model:
    """Answers whatever comes in one piece, one thread a connection."""

    def __init__(self, answer: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self._answer = answer
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                made, _ = self.listener.accept()
            except OSError:
                return  # closed
            self._threads.append(threading.Thread(target=self._serve, args=(made,)))
            self._threads[-1].start()

    def _serve(self, made: socket.socket) -> None:
        with made:
            while made.recv(65536):
                made.sendall(self._answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def model() -> Iterator[Model]:
    one = Model(ANSWER)
    yield one
    one.close()


def test_the_whole_of_an_answer_is_known_by_its_length_or_its_last_chunk() -> None:
    assert complete(ANSWER)
    assert good(ANSWER)
    assert not any(complete(ANSWER[:cut]) for cut in range(len(ANSWER)))
    chunked = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert complete(chunked)
    assert not good(chunked)
    assert not complete(chunked[:-2])
    with pytest.raises(Unclear):
        complete(b"HTTP/1.1 200 OK\r\n\r\n")


def test_a_percentile_is_a_sample_that_was_seen() -> None:
    samples = np.arange(1.0, 1001.0)
    assert percentile(samples, 50) == 500
    assert percentile(samples, 99) == 990
    assert percentile(samples, 99.9) in (999, 1000)
    assert percentile(np.array([7.0]), 99.9) == 7


def test_requests_leave_when_they_are_due_and_each_is_counted_once(model: Model) -> None:
    run = paced(model.port, "/", rate=200, seconds=0.5, connections=4, warm_up_seconds=0.1)
    assert run.latencies.shape == run.lateness.shape == (100,)
    assert (run.lateness >= 0).all()
    assert run.latencies.sum() > run.lateness.sum()
    assert run.cpu_share > 0


def test_an_open_loop_tells_answers_that_are_no_200() -> None:
    one = Model(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    try:
        with pytest.raises(RuntimeError, match="20 of 20 answers were no 200"):
            paced(one.port, "/", rate=200, seconds=0.1, connections=2, warm_up_seconds=0)
    finally:
        one.close()


def test_an_open_loop_that_is_never_answered_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.gateway.load.open_loop._GRACE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        loop = OpenLoop(silent.getsockname()[1], request("/", 2), rate=100, seconds=0.1, connections=2)
        try:
            loop.run()
        finally:
            loop.close()
    assert loop.missing == loop.count == 10
    assert len(loop.lateness) == 2


def test_a_chunk_has_one_mark() -> None:
    assert CHUNK.count(MARK) == 1
    size, _, rest = CHUNK.partition(b"\r\n")
    assert int(size, 16) == len(rest) - 2


def test_streams_are_held_and_what_arrives_is_counted(tmp_path: Path) -> None:
    port = free_port()
    with source(tmp_path / "source", port, 0.05, None), held(port, 20) as clients:
        first = clients.opened()
        assert (first.answered, first.ended, first.refused) == (20, 0, 0)
        while (account := clients.account()).least < 3:
            assert account.ended == 0
        assert account.marks >= 60


def test_clients_that_cannot_connect_say_so() -> None:
    with held(free_port(), 1) as clients, pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        clients.opened()


def test_chunks_come_as_fast_as_the_busiest_can_bear() -> None:
    assert affordable(1000, 1.0) == 100
    assert affordable(1000, 12.0) == pytest.approx(50)
    assert affordable(100_000, 12.0) == 1


def test_chunks_that_did_not_arrive_are_no_verdict() -> None:
    row = Row("w", "µs", 1.0, {"nginx": 1.0}, 1.0, "≤ 1.1 × nginx", met=True)
    assert unless_missing(row, 9_000, 10_000) == row
    late = unless_missing(row, 7_000, 10_000)
    assert late.met is None
    assert late.goal.endswith("7,000 of 10,000 chunks/s arrived")


def test_open_streams_have_as_many_processes_as_descriptors_ask_for() -> None:
    assert plan(50_000, usable(20_000)) == (50_000, 6, 3)
    assert plan(50_000, usable(1_048_576)) == (50_000, 1, 1)
    streams, gateways, others = plan(50_000, usable(1_024))
    assert streams < 50_000
    assert gateways <= 16
    assert others <= gateways


def test_a_goal_is_about_medians_and_a_peer_that_was_not_there_makes_no_row() -> None:
    spreads = {"Tidegate": Spread.of([3, 1, 2]), "nginx": Spread.of([2.0, 9.0, 1.0])}
    (row,) = at_most("w", "µs", spreads, "nginx", 1.0)
    assert (row.ours, row.peers, row.ratio, row.met) == (2, {"nginx": 2.0}, 1.0, True)
    assert row.ranges == {"Tidegate": (1, 3), "nginx": (1.0, 9.0)}
    (row,) = at_least("w", "/s", spreads, "nginx", 1.1)
    assert row.met is False
    (row,) = at_most("w", "µs", spreads, "nginx", None)
    assert row.met is None
    assert at_most("w", "µs", spreads, "Envoy", 1.0) == at_least("w", "/s", spreads, "Envoy", 1.0) == []


def test_rows_are_drawn_with_what_is_missing(tmp_path: Path) -> None:
    rows = [
        Row("one & two", "µs", 2.0, {"nginx": 4.0}, 0.5, "≤ 1 × nginx", met=True),
        Row("not there", "µs", None, {}, None, "≤ 1", met=None),
    ]
    picture = ET.fromstring(svg("Title", rows, ours="Tidegate"))
    words = [one.text or "" for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Title", "one & two (µs)", "nginx", "4.0", "not available"} <= set(words)


def test_rows_without_a_peer_are_measured_and_written(tmp_path: Path) -> None:
    file, picture = tmp_path / "rows.json", tmp_path / "rows.svg"
    code = main(
        ["--row", "open-streams", "--quick", "--open-streams", "30", "--json", str(file), "--plot", str(picture)]
    )
    if code and not file.exists():
        pytest.skip("nginx, wrk or taskset is not installed")
    (row,) = json.loads(file.read_text())
    assert row.keys() == {"work", "unit", "ours", "peers", "ratio", "goal", "met"}
    assert "30 open SSE streams through 1 workers, of which 0 ended" in row["work"]
    assert picture.read_text().startswith("<svg")


def test_every_row_has_a_name() -> None:
    assert len(set(NAMES)) == len(NAMES)
    rows = {"post", "heads", "tls", "latency", "streams", "bodies", "hostile", "isolation", "memory", "workers", "many"}
    assert rows <= set(NAMES)
