"""The tee: the mirror sees what the caller and the replica said, and can do no harm, alive, slow, stopped or dead."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from router.contract.events import Flag
from router.contract.tee import END_FIELDS, RESPONSE_FIELDS, Kind
from tests.support.gateway_mirror import FakeMirror
from tests.support.gateway_rig import KEY, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ScriptedReplica, ask, caller, gone, post, scripted


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


async def serve(rig: Rig, upstream: ScriptedReplica, percent: int) -> None:
    documents = {"blue": deployment(), "candidate": deployment()}
    sets = {name: [replica(upstream.port, replica_id=name)] for name in documents}
    extras = {"mirror": [{"deployment": "candidate", "fraction": percent / 100}]}
    await rig.publish("demo", documents, {"blue": 100}, sets, tidegate=extras)


def dropped(rig: Rig) -> Counter[str]:
    found: Counter[str] = Counter()
    for event in rig.shadows:
        assert (event.endpoint, event.candidate, event.live_deployment) == ("demo", "candidate", "blue")
        found[event.dropped] += event.count
    return found


async def connected(mirror: FakeMirror) -> None:
    await until(lambda: mirror.connected, "the gateway connects to the mirror")


async def test_the_mirror_gets_both_sides_without_credentials(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with gateway(tmp_path) as rig, FakeMirror().listening(rig.settings.data.mirror_socket) as mirror:
        await serve(rig, upstream, 100)
        await connected(mirror)
        body = bytes(range(256)) * 2000
        got = await ask(rig.port, post(body, extra="X-Kept: yes\r\n"))
        assert got.status == 200
        shadow = (await until(lambda: mirror.finished, "a whole shadow"))[0]
        assert KEY.encode() not in shadow.head
        assert shadow.head.startswith(b"POST /score HTTP/1.1\r\n")
        assert shadow.head.endswith(b"\r\n\r\n")
        assert b"X-Kept: yes" in shadow.head
        assert (shadow.body, shadow.response_body) == (body, body)
        status, first_us = RESPONSE_FIELDS.unpack_from(shadow.response)
        assert status == 200
        status, total_us, size = END_FIELDS.unpack(shadow.ending)
        assert (status, size) == (200, len(body))
        assert 0 < first_us <= total_us < 30_000_000
        assert shadow.response[RESPONSE_FIELDS.size :].startswith(b"HTTP/1.1 200 OK\r\n")
        assert (shadow.opening.live, shadow.opening.candidates) == ("blue", ("candidate",))
        assert shadow.opening.request_id == got.headers["x-request-id"]
        records = await until(lambda: rig.records, "its record")
        assert records[0].flags & Flag.MIRRORED
    assert dropped(rig) == Counter()


async def test_the_fraction_is_exact_and_named_deployments_are_never_mirrored(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    async with gateway(tmp_path) as rig, FakeMirror().listening(rig.settings.data.mirror_socket) as mirror:
        await serve(rig, upstream, 10)
        await connected(mirror)
        async with caller(rig.port) as connection:
            for number in range(200):
                connection.send(post(b"%d" % number))
                assert (await connection.answer()).status == 200
                connection.send(post(b"named", extra="azureml-model-deployment: blue\r\n"))
                assert (await connection.answer()).status == 200
        await until(lambda: len(mirror.finished) >= 20, "twenty shadows")
        assert len(mirror.shadows) == 20
        assert not any(one.body == b"named" for one in mirror.shadows.values())


async def test_a_chunked_body_and_a_stream_are_mirrored_unframed(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            writer.write(b"1\r\n%d\r\n" % number)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    upstream.script = stream
    async with gateway(tmp_path) as rig, FakeMirror().listening(rig.settings.data.mirror_socket) as mirror:
        await serve(rig, upstream, 100)
        await connected(mirror)
        raw = post().replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        assert (await ask(rig.port, raw)).body == b"012"
        shadow = (await until(lambda: mirror.finished, "a whole shadow"))[0]
        assert (shadow.body, shadow.response_body) == (b"abc", b"012")
        assert shadow.kinds.index(Kind.REQUEST_END) < shadow.kinds.index(Kind.RESPONSE)


async def test_a_caller_that_leaves_drops_its_shadow(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async def never(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.reader.readexactly(100_000)
        await gone(request.reader)

    upstream.script = never
    async with gateway(tmp_path) as rig, FakeMirror().listening(rig.settings.data.mirror_socket) as mirror:
        await serve(rig, upstream, 100)
        await connected(mirror)
        for size in (10, 100_000):
            async with caller(rig.port) as connection:
                connection.send(post(b"x" * 200_000)[: size - 200_000])
                await until(lambda: upstream.open, "it is under way")
                if size > 10:
                    await until(lambda: mirror.shadows, "the mirror has its first bytes")
                connection.abort()
                await until(lambda: not upstream.open, "it is cancelled")
        # The first was never sent to the mirror, so the gateway counts it; the second is the mirror's to count.
        assert (await until(lambda: mirror.finished, "the drop"))[0].dropped == "client_aborted"
        await until(lambda: dropped(rig)["client_aborted"] == 1, "the gateway's own count")


async def test_no_mirror_is_counted_and_harms_nobody(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with gateway(tmp_path) as rig:
        await serve(rig, upstream, 50)
        for _ in range(10):
            assert (await ask(rig.port)).status == 200
        await until(lambda: dropped(rig)["mirror_down"] == 5, "the drops are counted")


async def test_a_mirror_that_breaks_off_loses_what_it_had_and_a_new_one_is_found(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    async with gateway(tmp_path) as rig:
        await serve(rig, upstream, 100)
        async with FakeMirror(answers=False).listening(rig.settings.data.mirror_socket) as mirror:
            await connected(mirror)
            for _ in range(3):
                assert (await ask(rig.port)).status == 200
            await until(lambda: len(mirror.finished) == 3, "it has them all")
        await until(lambda: dropped(rig)["mirror_lost"] == 3, "what it did not answer is counted")
        async with FakeMirror().listening(rig.settings.data.mirror_socket) as mirror:
            await connected(mirror)
            assert (await ask(rig.port)).status == 200
            await until(lambda: mirror.finished, "a shadow again")


STOPPED_MIRROR = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
peer, _ = listener.accept(); print("connected", flush=True)
while peer.recv(65536): pass
"""


async def test_a_mirror_that_is_stopped_costs_a_bounded_number_of_bytes(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    async with gateway(tmp_path, mirror_budget_bytes=1 << 20) as rig:
        await serve(rig, upstream, 100)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STOPPED_MIRROR, str(rig.settings.data.mirror_socket), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), 30) == b"connected\n"
            os.kill(process.pid, signal.SIGSTOP)
            body = b"x" * 100_000
            for _ in range(40):
                assert (await ask(rig.port, post(body))).body == body
            await until(lambda: dropped(rig)["budget"] > 10, "drops for want of budget")
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: dropped(rig)["mirror_lost"] > 0, "what was under way is counted")
            assert (await ask(rig.port, post(body))).body == body
            await until(lambda: sum(dropped(rig).values()) == 41, "every sampled exchange is accounted for")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
