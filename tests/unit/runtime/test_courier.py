"""Demand on its direct way, over real sockets: nothing waits for it, nothing piles up, nothing is lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import pytest

from router.contract.errors import InvalidSpec
from router.contract.handover import Handed, encode_told
from router.runtime import courier as module
from router.runtime.courier import Courier
from tests.support.direct_target import Listener, listening, ok
from tests.support.gateway_rig import until

WRITER = "ab" * 16


@contextlib.asynccontextmanager
async def opened(*targets: str) -> AsyncIterator[tuple[Courier, list[bytes]]]:
    """A courier at work, and the replicas that it was told."""
    told: list[bytes] = []
    courier = Courier(targets, told.append, chance=lambda: 0.0)
    courier.open()
    try:
        yield courier, told
    finally:
        await courier.close(0.0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("courier")]


async def delivered(courier: Courier, count: int) -> None:
    await until(lambda: courier.counts.delivered >= count, f"{count} delivered")


def sequences(messages: list[Handed]) -> list[int]:
    return [one.sequence for one in messages]


async def test_what_is_handed_arrives_as_it_was_and_in_order(tmp_path: Path) -> None:
    listener = Listener()
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, _):
        for number in range(100):
            courier.hand(WRITER, number, f"endpoint-{number % 3}", b"%d" % number)
        await until(lambda: courier.counts.delivered == 100, "everything delivered")
    assert [(one.writer, one.sequence, one.key, one.value) for one in listener.messages] == [
        (WRITER, number, f"endpoint-{number % 3}", b"%d" % number) for number in range(100)
    ]
    assert listener.connections == 1
    assert courier.waiting_bytes() == 0


async def test_one_request_is_under_way_and_what_gathers_goes_with_the_next(tmp_path: Path) -> None:
    listener = Listener()
    async with listening(tmp_path / "s", listener, held=True) as target, opened(target) as (courier, _):
        courier.hand(WRITER, 0, "e", b"")
        await until(lambda: listener.batches, "the first request")
        for number in range(1, 50):
            courier.hand(WRITER, number, "e", b"")
        listener.released.set()
        await until(lambda: courier.counts.delivered == 50, "everything delivered")
    assert [len(batch) for batch in listener.batches] == [1, 49]
    assert listener.most_at_once == 1


async def test_every_target_gets_everything_and_one_that_is_away_does_not_hold_up_the_other(tmp_path: Path) -> None:
    listener = Listener()
    async with listening(tmp_path / "s", listener) as target:
        away = f"unix:{tmp_path / 'nobody'}"
        async with opened(away, target) as (courier, _):
            for number in range(5):
                courier.hand(WRITER, number, "e", b"")
            await until(lambda: len(listener.messages) == 5 and courier.counts.failures, "delivered and failed")
            assert courier.waiting_bytes() > 0


async def test_replicas_that_come_back_are_passed_on_one_by_one(tmp_path: Path) -> None:
    listener = Listener(lambda _: ok(encode_told([("e", b"first"), ("f", b"second")])))
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, told):
        courier.hand(WRITER, 0, "e", b"")
        await until(lambda: len(told) == 2, "both told")
    assert told == [b"first", b"second"]


async def test_a_taker_that_fails_harms_neither_the_next_replicas_nor_the_next_demand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[bytes] = []

    def take(value: bytes) -> None:
        told.append(value)
        raise RuntimeError("no such lane")

    listener = Listener(lambda _: ok(encode_told([("e", b"first"), ("f", b"second")])))
    async with listening(tmp_path / "s", listener) as target:
        courier = Courier([target], take)
        courier.open()
        for number in range(3):
            courier.hand(WRITER, number, "e", b"")
            await delivered(courier, number + 1)
        await courier.close(0.0)
    assert len(told) == 6
    assert courier.counts.failures == 0
    assert caplog.text.count("replicas could not be taken") == 1


async def test_while_the_target_is_away_memory_is_bounded_and_the_newest_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 5_000)
    monkeypatch.setattr(module, "BATCH_BYTES", 1_000)
    path, listener = tmp_path / "s", Listener()
    async with opened(f"unix:{path}") as (courier, _):
        for number in range(1_000):
            courier.hand(WRITER, number, "e", b"x" * 100)
            assert courier.waiting_bytes() <= 5_000
            if number % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: courier.counts.failures, "a try that failed")
        assert courier.waiting_bytes() <= 5_000
        async with listening(path, listener):
            await until(lambda: not courier.waiting_bytes() and not listener.at_once, "the rest delivered")
            await until(lambda: courier.counts.delivered + courier.counts.dropped == 1_000, "all accounted for")
    got = sequences(listener.messages)
    assert got == list(range(1_000 - len(got), 1_000))
    assert courier.counts.dropped == 1_000 - len(got) > 0
    assert max(len(batch) for batch in listener.batches) < 10


async def test_a_message_too_long_for_a_request_is_dropped_and_counted(tmp_path: Path) -> None:
    listener = Listener()
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, _):
        courier.hand(WRITER, 0, "e", b"x" * (module.BATCH_BYTES + 1))
        courier.hand(WRITER, 1, "e", b"x")
        await until(lambda: courier.counts.delivered, "the next one")
    assert (sequences(listener.messages), courier.counts.dropped) == ([1], 1)


async def test_an_answer_that_does_not_come_in_time_means_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE_SECONDS", 0.05)
    silent = [True]
    listener = Listener(lambda _: None if silent.pop() else ok())
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, _):
        silent[:] = [False, True]
        courier.hand(WRITER, 7, "e", b"")
        await until(lambda: courier.counts.delivered == 1, "delivered at last")
    assert sequences(listener.messages) == [7, 7]
    assert courier.counts.failures == 1
    assert listener.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000,
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_after_an_answer_that_cannot_be_believed_the_same_is_handed_again(tmp_path: Path, answer: bytes) -> None:
    answers = [ok(), answer]
    listener = Listener(lambda _: answers.pop() if len(answers) > 1 else answers[0])
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, _):
        courier.hand(WRITER, 3, "e", b"value")
        await until(lambda: courier.counts.delivered == 1, "delivered at last")
    assert sequences(listener.messages) == [3, 3]
    assert (courier.counts.failures, courier.counts.refused) == (1, 0)


@pytest.mark.parametrize("status", [HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR])
async def test_what_is_refused_is_not_handed_again(tmp_path: Path, status: HTTPStatus) -> None:
    refusal = f"HTTP/1.1 {status.value} no\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno".encode()
    answers = [ok(), refusal]
    listener = Listener(lambda _: answers.pop() if len(answers) > 1 else answers[0])
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, _):
        courier.hand(WRITER, 1, "e", b"")
        await until(lambda: courier.counts.refused == 1, "refused")
        courier.hand(WRITER, 2, "e", b"")
        await until(lambda: courier.counts.delivered == 1, "the next one")
    assert sequences(listener.messages) == [1, 2]


async def test_an_answer_without_sense_is_delivered_all_the_same(tmp_path: Path) -> None:
    listener = Listener(lambda _: ok(b"\x01\xff"))
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, told):
        for number in range(2):
            courier.hand(WRITER, number, "e", b"")
            await delivered(courier, number + 1)
    assert (told, courier.counts.failures) == ([], 0)


async def test_a_connection_that_was_closed_meanwhile_costs_no_message_and_no_pause(tmp_path: Path) -> None:
    listener = Listener()
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, _):
        for number in range(3):
            courier.hand(WRITER, number, "e", b"")
            await delivered(courier, number + 1)
            listener.writers[-1].transport.abort()
    assert sequences(listener.messages) == [0, 1, 2]
    assert (courier.counts.failures, listener.connections) == (0, 3)


async def test_an_answer_may_end_the_connection(tmp_path: Path) -> None:
    listener = Listener(lambda _: ok(more="Connection: close\r\n"))
    async with listening(tmp_path / "s", listener) as target, opened(target) as (courier, _):
        for number in range(2):
            courier.hand(WRITER, number, "e", b"")
            await delivered(courier, number + 1)
    assert (listener.connections, courier.counts.failures) == (2, 0)


async def test_the_end_waits_for_the_last_word(tmp_path: Path) -> None:
    listener = Listener()
    async with listening(tmp_path / "s", listener) as target:
        courier = Courier([target], lambda _: None)
        courier.open()
        courier.hand(WRITER, 0, "e", b"last")
        await courier.close(30.0)
    assert (sequences(listener.messages), courier.counts.delivered) == ([0], 1)


async def test_the_end_does_not_wait_for_somebody_who_is_away(tmp_path: Path) -> None:
    courier = Courier([f"unix:{tmp_path / 'nobody'}"], lambda _: None)
    courier.open()
    courier.hand(WRITER, 0, "e", b"")
    async with asyncio.timeout(20):
        await courier.close(60.0)
    courier.hand(WRITER, 1, "e", b"")
    assert courier.counts.delivered == 0


async def test_without_a_target_there_is_no_task_and_nothing_is_kept() -> None:
    courier = Courier([], lambda _: None)
    before = asyncio.all_tasks()
    courier.open()
    courier.hand(WRITER, 0, "e", b"")
    assert (asyncio.all_tasks(), courier.counts.handed, courier.waiting_bytes()) == (before, 0, 0)
    await courier.close(1.0)


async def test_a_target_away_for_long_is_one_line_and_so_is_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    path, listener = tmp_path / "s", Listener()
    async with opened(f"unix:{path}") as (courier, _):
        courier.hand(WRITER, 0, "e", b"")
        await until(lambda: courier.counts.failures >= 3, "some tries")
        async with listening(path, listener):
            await until(lambda: courier.counts.delivered == 1, "delivered")
    lines = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert len(lines) == 2
    assert "does not take demand" in lines[0]
    assert "takes demand again" in lines[1]


async def test_over_tcp_it_is_the_same() -> None:
    listener = Listener()
    listener.released.set()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with opened(f"http://127.0.0.1:{port}") as (courier, _):
            courier.hand(WRITER, 0, "e", b"x" * 200_000)
            await until(lambda: courier.counts.delivered == 1, "delivered")
    finally:
        server.close()
        await server.wait_closed()
    assert listener.messages[0].value == b"x" * 200_000


@pytest.mark.parametrize(
    "target",
    [
        "", "unix:", "ftp://host:1", "https://host", "http://host", "http://host:0", "http://host:x", "http://host:99999",
        "http://user:secret@host:1", "http://host:1/path", "http://host:1?x", "host:1", "http://host:1\r\nx: y",
    ],
)  # fmt: skip
async def test_a_target_that_is_none_is_refused_with_what_it_should_be(target: str) -> None:
    with pytest.raises(InvalidSpec, match=r"unix:/path/of/the/socket, http://host:port or https://host:port"):
        Courier([target], lambda _: None)
