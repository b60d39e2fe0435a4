"""Every shadow ends exactly once: by comparison, by a reason, or with the connection that brought it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import stat
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from router.contract.errors import Conflict
from router.contract.events import ReplicaState
from router.contract.tee import HEADER, Kind, Open, open_frame
from tests.support.mirror_candidate import Received, answer, candidate, hang
from tests.support.mirror_gateway import FakeGateway, gateway
from tests.support.mirror_service import Mirror, mirror


async def test_without_a_replica_a_shadow_waits_and_then_drops(tmp_path: Path) -> None:
    async with mirror(tmp_path, {"green": 1}, timeout_seconds=0.3) as running:
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
        (event,) = await running.wait_shadows(1)
    assert (event.equal, event.dropped, event.shadow) == (None, "no_replica", None)
    assert event.live is not None
    assert event.live.status == 200


async def test_a_shadow_waits_for_a_candidate_at_zero_and_asks_for_it(tmp_path: Path) -> None:
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}) as running:
        async with gateway(running.socket) as worker:
            number = worker.exchange(b"{}", b"{}")
            await running.until(lambda: any(row.queued for report in running.reports for row in report.rows))
            running.serve(green=green.port)
            await worker.wait_done(number)
        (event,) = await running.wait_shadows(1)
        rows = [row for report in running.reports for row in report.rows if row.queued]
    assert event.equal is True
    assert all(report.shadow for report in running.reports)
    assert {(row.deployment, row.shadow, row.queued) for row in rows} == {("green", True, 1)}


async def test_a_full_queue_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.service.GRACE_SECONDS", 0)
    async with candidate(hang) as green, mirror(tmp_path, {"green": 1}, max_waiting=2) as running:
        running.serve(green=green.port)
        await running.applied()
        async with gateway(running.socket) as worker:
            for _ in range(10):
                worker.exchange(b"{}", b"{}")
            await running.wait_shadows(7)
            await running.finish()
    assert Counter(event.dropped for event in running.shadows) == {"queue_full": 7, "shutdown": 3}


async def test_shadows_whose_time_is_up_together_leave_every_place_behind(tmp_path: Path) -> None:
    async with candidate(hang) as green, mirror(tmp_path, {"green": 8}, timeout_seconds=0.4) as running:
        running.serve(green=green.port)
        await running.applied()
        async with gateway(running.socket) as worker:
            await worker.wait_done(*[worker.exchange(b"{}", b"{}") for _ in range(40)])
        await running.wait_shadows(40)
        assert "internal" not in {one.dropped for one in running.shadows}
        running.replicas({"green": [(green.port, ReplicaState.DRAINING)]})
        await running.until(lambda: any(dict(one.draining).get(f"green-{green.port}") == 0 for one in running.reports))


async def test_concurrency_stays_within_what_ready_replicas_take(tmp_path: Path) -> None:
    async def slowly(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        await answer(b"{}")(request, writer)

    async with candidate(slowly) as one, candidate(slowly) as two, mirror(tmp_path, {"green": 2}) as running:
        running.replicas({"green": [(one.port, ReplicaState.READY), (two.port, ReplicaState.READY)]})
        await running.applied()
        async with gateway(running.socket) as worker:
            await worker.wait_done(*[worker.exchange(b"{}", b"{}") for _ in range(60)])
        events = await running.wait_shadows(60)
    assert all(event.equal for event in events)
    assert (one.most_active, two.most_active) == (2, 2)


async def test_a_draining_replica_gets_nothing_new_and_is_reported_until_empty(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(request: Received, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answer(b"{}")(request, writer)

    async with candidate(wait) as old, candidate(answer(b"{}")) as new, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=old.port)
        async with gateway(running.socket) as worker:
            first = worker.exchange(b"{}", b"{}")
            await old.wait_for(1)
            running.replicas({"green": [(old.port, ReplicaState.DRAINING), (new.port, ReplicaState.READY)]})
            await running.until(lambda: any(report.draining for report in running.reports))
            draining = next(report for report in running.reports if report.draining)
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
            release.set()
            await worker.wait_done(first)
            await running.until(
                lambda: any(dict(one.draining).get(f"green-{old.port}") == 0 for one in running.reports)
            )
    assert draining.draining == ((f"green-{old.port}", 1),)
    assert draining.replicas_version == 2
    assert (len(old.received), len(new.received)) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "size", "reason"),
    [({"memory_bytes": 100_000}, 200_000, "memory"), ({}, (4 << 20) + 1, "too_large")],
)
async def test_a_body_beyond_its_bound_drops_this_shadow_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], size: int, reason: str
) -> None:
    monkeypatch.setattr("mirror.service.BODY_BYTES", 4 << 20)
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}, **settings) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            number = worker.open(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", end=False)
            piece = bytes(1 << 17)
            for _ in range(size // len(piece) + 1):
                worker.body(number, piece)
                await worker.writer.drain()
            worker.send(Kind.REQUEST_END, number)
            worker.respond(number, b"{}")
            await worker.wait_done(number, worker.exchange(b"{}", b"{}"))
        events = {event.request_id: event for event in await running.wait_shadows(2)}
    assert events["request-0"].dropped == reason
    assert events["request-1"].equal is True


async def test_memory_comes_back(tmp_path: Path) -> None:
    async with (
        candidate(answer(b"y" * 60_000)) as green,
        mirror(tmp_path, {"green": 1}, memory_bytes=400_000) as running,
    ):
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            for _ in range(40):
                await worker.wait_done(worker.exchange(b"x" * 60_000, b"y" * 60_000))
        events = await running.wait_shadows(40)
    assert all(event.equal for event in events)


async def test_a_live_abort_ends_the_shadow_with_its_reason(tmp_path: Path) -> None:
    async with candidate(hang) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            running_one = worker.open(body=b"{}")
            await green.wait_for(1)
            half_sent = worker.open(body=b"{}", end=False)
            worker.send(Kind.DROP, running_one, b"client_aborted")
            worker.send(Kind.DROP, half_sent, b"budget")
            await worker.wait_done(running_one, half_sent)
        events = await running.wait_shadows(2)
    assert [event.dropped for event in events] == ["client_aborted", "budget"]
    assert len(green.received) == 1


@pytest.mark.parametrize(
    "head",
    [b"nonsense", b"POST / HTTP/1.1\r\n folded: secret\r\n\r\n", b"GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n"],
)
async def test_a_head_that_cannot_be_passed_on_drops(tmp_path: Path, head: bytes) -> None:
    async with mirror(tmp_path, {"green": 1}) as running:
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"", b"{}", head=head))
        (event,) = await running.wait_shadows(1)
    assert event.dropped in ("malformed", "upgrade")


async def test_exchanges_are_opened_in_any_order(tmp_path: Path) -> None:
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            worker.newest = 6
            later = worker.exchange(b"{}", b"{}")
            worker.newest = 2
            earlier = worker.exchange(b"{}", b"{}")
            await worker.wait_done(later, earlier)
        await running.finish()
    assert sorted(event.request_id for event in running.shadows) == ["request-3", "request-7"]


async def test_frames_after_an_early_end_are_ignored_until_the_gateway_ends_it_too(tmp_path: Path) -> None:
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            number = worker.open(b"nonsense", end=False)
            await worker.wait_done(number)
            worker.body(number, b"x")
            worker.send(Kind.REQUEST_END, number)
            worker.respond(number, b"{}")
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
            worker.send(Kind.BODY, number, b"after its end")
            await worker.wait_closed()
        await running.finish()
    assert [event.dropped for event in running.shadows] == ["malformed", ""]


BROKEN = {
    "a kind that is none": HEADER.pack(0, 99, 0),
    "an endless frame": HEADER.pack(1 << 31, 2, 0),
    "a frame of an exchange that was never opened": HEADER.pack(0, Kind.BODY, 7),
    "an answer, which only the mirror gives": HEADER.pack(0, Kind.DONE, 0),
    "a response too short for its fields": HEADER.pack(2, Kind.RESPONSE, 0) + b"xx",
    "a body after its end": HEADER.pack(0, Kind.REQUEST_END, 0) + HEADER.pack(0, Kind.BODY, 0),
    "a response body before the response": HEADER.pack(0, Kind.RESPONSE_BODY, 0),
    "an opening twice": open_frame(0, Open("shop", "blue", ("green",), "r", 1), b"GET / HTTP/1.1\r\n\r\n"),
    "an opening without its JSON": HEADER.pack(4, Kind.OPEN, 1) + struct.pack("<H", 2) + b"{]",
}


@pytest.mark.parametrize("nonsense", BROKEN.values(), ids=BROKEN.keys())
async def test_nonsense_closes_that_connection_only(tmp_path: Path, nonsense: bytes) -> None:
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}) as running:
        async with gateway(running.socket) as bad, gateway(running.socket) as good:
            bad.open(body=b"{}", end=False)
            bad.writer.write(nonsense)
            await bad.wait_closed()
            running.serve(green=green.port)
            await good.wait_done(good.exchange(b"{}", b"{}"))
        await running.finish()
    assert [event.equal for event in running.shadows] == [True]
    assert len(green.received) == 1


async def test_a_lost_gateway_leaves_no_event_and_no_shadow(tmp_path: Path) -> None:
    async with (
        candidate(hang) as green,
        candidate(answer(b"{}")) as red,
        mirror(tmp_path, {"green": 1, "red": 1}) as running,
    ):
        running.serve(green=green.port, red=red.port)
        async with gateway(running.socket, ("green", "red")) as lost:
            lost.exchange(b"{}", b"{}")
            lost.exchange(b"{}", b"{}")
            lost.open(body=b"x" * 3_000_000, end=False)
            await green.wait_for(1)
            await red.wait_for(2)
        green.script = answer(b"{}")
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
        await running.finish()
        data = running.settings.data
        left = [*(path for path in data.run.iterdir() if path != data.vitals), *data.vitals.iterdir()]
    assert [event.request_id for event in running.shadows] == ["request-0"]
    assert running.shadows[0].equal is True
    assert len(green.received) == 2  # one of the lost exchange, one of the new; none that waited
    assert left == []


async def test_a_gateway_that_reads_no_answers_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.link._UNREAD_BYTES", 10_000)
    async with mirror(tmp_path, {"green": 1}) as running:
        async with gateway(running.socket) as worker:
            small = open_frame(0, Open("s", "b", (), "r", 1), b"GET / HTTP/1.1\r\n\r\n")[HEADER.size :]
            with pytest.raises(ConnectionError):
                for number in range(1_000_000):
                    worker.writer.write(HEADER.pack(len(small), Kind.OPEN, number) + small)
                    worker.send(Kind.DROP, number, b"x")
                    if number % 1000 == 0:
                        await worker.writer.drain()
        async with gateway(running.socket) as worker:
            worker.candidates = ()
            await worker.wait_done(worker.exchange(b"{}", b"{}"))


async def test_what_has_ended_is_answered_before_the_mirror_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.receiver.TOGETHER_SECONDS", 3600)
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            number = worker.exchange(b"{}", b"{}")
            await running.until(lambda: sum(_total(running, "completions")) == 1)
            assert not running.shadows
            running.stop.set()
            await worker.wait_done(number)
        await running.finish()
    assert [event.equal for event in running.shadows] == [True]


async def test_what_has_ended_unanswered_leaves_no_event_when_its_gateway_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.receiver.TOGETHER_SECONDS", 3600)
    monkeypatch.setattr("mirror.link._MOST_TOGETHER", 2)
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as lost:
            lost.exchange(b"{}", b"{}")
            await running.until(lambda: sum(_total(running, "completions")) == 1)
        async with gateway(running.socket, ()) as worker:
            await worker.wait_done(worker.exchange(b"{}", b"{}"), worker.exchange(b"{}", b"{}"))
        await running.finish()
    assert running.shadows == []


async def test_a_removed_candidate_drops_what_waits(tmp_path: Path) -> None:
    async with mirror(tmp_path, {"green": 1}) as running:
        async with gateway(running.socket) as worker:
            number = worker.exchange(b"{}", b"{}")
            await running.until(lambda: any(row.queued for report in running.reports for row in report.rows))
            running.specs({})
            await worker.wait_done(number)
        (event,) = await running.wait_shadows(1)
    assert event.dropped == "no_replica"


async def test_shutdown_finishes_what_it_can_and_drops_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.service.GRACE_SECONDS", 0.5)
    async with (
        candidate(hang) as green,
        candidate(answer(b"{}")) as red,
        mirror(tmp_path, {"green": 1, "red": 1}) as running,
    ):
        running.serve(green=green.port, red=red.port)
        async with gateway(running.socket, ("green", "red")) as worker:
            both = worker.exchange(b"{}", b"{}")
            live_is_open = worker.open(body=b"{}")
            await green.wait_for(1)
            await red.wait_for(2)
            running.stop.set()
            await worker.wait_done(both, live_is_open)
            await worker.wait_closed()
        await running.finish()
    ends = {(event.request_id, event.candidate): event.dropped for event in running.shadows}
    assert len(running.shadows) == 4
    assert ends == {
        ("request-0", "green"): "shutdown",
        ("request-0", "red"): "",
        ("request-1", "green"): "shutdown",
        ("request-1", "red"): "shutdown",
    }
    assert not running.socket.exists()


async def test_the_socket_is_private_replaces_a_dead_one_and_respects_a_living_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "run" / "mirror.sock"))
    dead.close()
    async with mirror(tmp_path, {"green": 1}) as running:
        assert stat.S_IMODE(os.stat(running.socket).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(running.settings.data.shadow_key).st_mode) == 0o600
        with pytest.raises(ExceptionGroup) as raised:
            await _second(tmp_path)
        assert raised.group_contains(Conflict)
        async with gateway(running.socket, ()) as worker:
            await worker.wait_done(worker.exchange(b"{}", b"{}"))


async def _second(root: Path) -> None:
    from mirror.service import run
    from router.runtime.log.opening import open_log
    from router.runtime.settings import DataLayout, MirrorSettings

    data = DataLayout(root)
    log = open_log(f"embedded:{data.log}")
    try:
        await run(MirrorSettings(data), log, asyncio.Event(), lambda: None)
    finally:
        await log.close()


@pytest.mark.parametrize("seed", range(5))
async def test_each_shadow_of_a_random_schedule_ends_exactly_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    async def moody(request: Received, writer: asyncio.StreamWriter) -> None:
        mood = chance.random()
        if mood < 0.1:
            writer.transport.abort()
        elif mood < 0.2:
            await asyncio.sleep(10)
        else:
            await asyncio.sleep(chance.random() / 50)
            await answer(b"{}" if mood < 0.8 else b"[]", status=200 if mood < 0.9 else 500)(request, writer)

    async with candidate(moody) as green, candidate(moody) as red:
        settings = {"timeout_seconds": 0.3, "max_waiting": 20, "max_concurrent": 6}
        async with mirror(tmp_path, {"green": 4, "red": 2}, **settings) as running:
            running.serve(green=green.port, red=red.port)
            async with gateway(running.socket, ("green", "red")) as one, gateway(running.socket, ("red",)) as two:
                sent = [_play(chance, worker) for worker in (one, two) for _ in range(150)]
                await one.wait_done(*range(150))
                await two.wait_done(*range(150))
            await running.finish()
    assert len(sent) == 300
    ends = Counter((event.request_id, event.candidate) for event in running.shadows)
    assert ends == Counter([(f"request-{number}", name) for number in range(150) for name in ("green", "red", "red")])
    for event in running.shadows:
        assert (event.equal is None) == bool(event.dropped)


def _play(chance: random.Random, worker: FakeGateway) -> int:
    body = b"x" * chance.choice((0, 10, 100_000))
    ends = chance.random()
    number = worker.open(body=body, end=ends > 0.1)
    if ends < 0.2:
        worker.send(Kind.DROP, number, b"client_aborted")
    else:
        worker.respond(number, b"{}")
    return number


async def test_demand_adds_up(tmp_path: Path) -> None:
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 3}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            await worker.wait_done(*[worker.exchange(b"{}", b"{}") for _ in range(50)])
        await running.until(lambda: sum(_total(running, "completions")) == 50)
        assert sum(_total(running, "arrivals")) == 50
        assert sum(_total(running, "errors")) == 0
        assert sum(sum(row.latency) for report in running.reports for row in report.rows) == 50
        assert sum(_total(running, "busy_seconds")) > 0
        last = running.reports[-1]
        for earlier, later in zip(running.reports, running.reports[1:], strict=False):
            assert later.start_ns == earlier.end_ns
    assert [row.in_flight for row in last.rows] == [0]


def _total(running: Mirror, field: str) -> list[float]:
    return [getattr(row, field) for report in running.reports for row in report.rows]
