"""What a process counts about itself is found on its socket, by curl as by the control plane, and its end leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from router.contract.errors import Unavailable
from router.runtime import vitals
from router.runtime.courier import Courier
from router.runtime.exposition import Family, merged, served, single, text_of
from router.runtime.vitals import gathered, offered, writer_families

DEADLINE = 30.0


def seven() -> Iterable[Family]:
    return [single("tidegate_seven", "gauge", "It is seven", 7)]


async def say(path: Path, sent: bytes) -> bytes:
    """Send, and read to the end."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(sent)
        try:
            return await reader.read()
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_is_offered_to_its_owner_while_the_process_lives(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    folder = tmp_path / "run" / "metrics"

    async def main() -> None:
        async with offered(folder, "gateway-0", seven):
            path = folder / "gateway-0.sock"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for _ in range(3):
                answer = await say(path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert answer.endswith(b'\ntidegate_seven{process="gateway-0"} 7\n')
            assert await gathered(folder) == {"gateway-0": text_of(seven(), process="gateway-0")}
        assert await gathered(folder) == {}
        assert list(folder.iterdir()) == []

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def test_whoever_asks_for_anything_else_is_told_and_whoever_leaves_harms_nobody(tmp_path: Path) -> None:
    async with offered(tmp_path, "mirror", seven):
        path = tmp_path / "mirror.sock"
        assert (await say(path, b"GET /other HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert (await say(path, b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405")
        assert await say(path, b"x" * 100_000) == b""
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.transport.abort()
        assert list(await gathered(tmp_path)) == ["mirror"]


async def test_a_path_too_long_for_a_socket_address_is_none(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    async with offered(folder, "gateway-0", seven):
        assert (await gathered(folder))["gateway-0"]


async def test_a_successor_takes_the_name_over_and_keeps_it_when_the_predecessor_ends(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(offered(tmp_path, "gateway-0", lambda: [single("first", "gauge", "", 1)]))
        async with offered(tmp_path, "gateway-0", seven):
            await first.aclose()
            text = (await gathered(tmp_path))["gateway-0"]
            assert text is not None
            assert "tidegate_seven" in text
    assert list(tmp_path.iterdir()) == []


@contextlib.asynccontextmanager
async def answering(path: Path, answer: bytes | None) -> AsyncIterator[None]:
    """Somebody who says `answer`; None = nothing at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await reader.read()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield
    finally:
        server.close()
        await asyncio.sleep(0)


async def test_who_is_dead_or_makes_no_sense_is_told_from_who_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "ASK_SECONDS", DEADLINE)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    async with (
        answering(tmp_path / "broken.sock", b"nonsense\r\n\r\n"),
        answering(tmp_path / "busy.sock", b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
        answering(tmp_path / "odd.sock", b"HTTP/1.1 200 OK\r\n\r\n\xff"),
        offered(tmp_path, "well", seven),
    ):
        found = await gathered(tmp_path, [tmp_path / "nobody.sock"])
    assert found.pop("well")
    assert found == dict.fromkeys(("dead", "broken", "busy", "odd"))


async def test_who_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "ASK_SECONDS", 0.05)
    async with asyncio.timeout(DEADLINE), answering(tmp_path / "stuck.sock", None):
        assert await gathered(tmp_path) == {"stuck": None}


async def test_an_answer_without_end_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "ANSWER_BYTES", 100_000)
    async with answering(tmp_path / "endless.sock", b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000):
        assert await gathered(tmp_path) == {"endless": None}


async def test_where_no_socket_can_be_the_process_goes_on_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    async with offered(tmp_path / "file", "mirror", seven):
        pass
    assert "metrics of this process cannot be asked for" in caplog.text


def test_what_dead_processes_left_is_cleared(tmp_path: Path) -> None:
    vitals.clear(tmp_path / "absent")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    (tmp_path / "other").write_text("")
    vitals.clear(tmp_path)
    assert os.listdir(tmp_path) == ["other"]


async def test_a_writer_tells_what_its_log_refused_and_what_became_of_its_direct_demand(tmp_path: Path) -> None:
    courier = Courier([f"unix:{tmp_path / 'nobody'}"], lambda _: None)
    courier.hand("ab" * 16, 0, "shop", b"12345")
    text = text_of(writer_families({"requests": 3, "demand": 0}, courier), process="gateway-1")
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels["process"] for sample in found} == {"gateway-1"}
    values: dict[tuple[str, str], float] = {(one.name, one.labels.get("topic", "")): one.value for one in found}
    assert values["tidegate_log_dropped_messages_total", "requests"] == 3
    assert values["tidegate_log_dropped_messages_total", "demand"] == 0
    assert values["tidegate_courier_handed_messages_total", ""] == 1
    assert values["tidegate_courier_waiting_bytes", ""] > 5
    for name in ("delivered_messages", "dropped_messages", "refused_messages", "failures"):
        assert values[f"tidegate_courier_{name}_total", ""] == 0


def test_label_values_may_hold_anything() -> None:
    odd = 'back\\slash "quoted"\nnew line'
    text = text_of([Family("tidegate_odd", "gauge", "", [({"name": odd}, 0.1)])])
    ((sample,),) = [family.samples for family in text_string_to_metric_families(text)]
    assert (sample.labels["name"], sample.value) == (odd, 0.1)


def test_texts_of_several_processes_become_one_with_one_head_per_metric() -> None:
    one = text_of(
        [single("tidegate_a", "gauge", "It is a", 1), single("tidegate_b", "counter", "It is b", 2)], process="x"
    )
    two = text_of([single("tidegate_b", "counter", "It is b", 3)], process="y")
    assert merged([one, two]).splitlines() == [
        "# HELP tidegate_a It is a",
        "# TYPE tidegate_a gauge",
        'tidegate_a{process="x"} 1',
        "# HELP tidegate_b It is b",
        "# TYPE tidegate_b counter",
        'tidegate_b{process="x"} 2',
        'tidegate_b{process="y"} 3',
    ]


async def test_a_port_that_is_taken_is_named() -> None:
    async def nothing() -> str:
        return ""

    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as taken:
        port = taken.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            async with served(("127.0.0.1", port), nothing):
                pass
