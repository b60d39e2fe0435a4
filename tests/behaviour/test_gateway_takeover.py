"""A new gateway takes the socket of the old one under load: nobody is refused, nothing is lost, the split stays exact."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import ssl
import time
from collections import Counter, deque
from pathlib import Path

import psutil

from loadtests.waiting import free_port
from router.gateway import handover
from router.runtime.settings import DataLayout, GatewaySettings
from tests.support.gateway_rig import PATIENCE, deployment, replica, until, worker_process
from tests.support.gateway_upstream import Request, Script, ask, caller, post, scripted
from tests.support.gateway_workers import publishing
from tests.support.tls_authority import Authority, tls_caller

Process = asyncio.subprocess.Process
BYE = "Connection: close\r\n"
WEIGHTS = {"blue": 83, "green": 10, "red": 7}


def held(release: asyncio.Event) -> Script:
    """Answers at once, but for a body that says `hold`: that waits for the release."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        if request.body == b"hold":
            await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    return script


def listens(process: Process) -> bool:
    found = psutil.Process(process.pid).net_connections("tcp")
    return any(one.status == psutil.CONN_LISTEN for one in found)


MOST_UNDER_WAY = 40


class Load:
    """Requests at a fixed rate, or as fast as a busy machine answers them, half on connections of their own, half on ones that are kept as long as they are let."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.under_way: set[asyncio.Task[None]] = set()
        self._idle: deque[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def run(self, done: asyncio.Event, every_seconds: float = 0.004) -> None:
        turn = 0
        while not done.is_set():
            if len(self.under_way) >= MOST_UNDER_WAY:
                await asyncio.wait(self.under_way, return_when=asyncio.FIRST_COMPLETED)
            turn += 1
            task = asyncio.create_task(self._one(keep=turn % 2 == 0))
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)
            await asyncio.sleep(every_seconds)
        await asyncio.gather(*self.under_way)
        for _, _, writer in self._idle:
            await self._closed(writer)

    async def _one(self, *, keep: bool) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await (self._kept() if keep else self._opened())
                writer.write(post(b"x" * 100, extra="" if keep else BYE))
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                body = await reader.readexactly(100)
        except (OSError, EOFError) as error:
            self.failures.append(f"{'kept' if keep else 'own'}: {error!r}")
            return
        if not head.startswith("http/1.1 200") or body != b"x" * 100:
            self.failures.append(head)
        self.counts[head.partition("azureml-model-deployment: ")[2].partition("\r\n")[0]] += 1
        if keep and "connection: close" not in head:
            self._idle.append((time.monotonic(), reader, writer))
            return
        await self._closed(writer)

    async def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that was used a moment ago: any client must reckon with the end of one that has long been idle."""
        while self._idle:
            since, reader, writer = self._idle.popleft()
            if time.monotonic() - since < 0.2 and not reader.at_eof():
                return reader, writer
            await self._closed(writer)
        return await self._opened()

    @staticmethod
    async def _closed(writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def test_ten_take_overs_under_load_lose_nothing_and_keep_the_split(tmp_path: Path) -> None:
    async def work(request: Request, writer: asyncio.StreamWriter) -> None:
        body = await request.read_body()
        await asyncio.sleep(0.03)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with publishing(tmp_path) as publisher, scripted(work) as upstream, contextlib.AsyncExitStack() as stack:
        publisher.endpoint("demo", {name: deployment() for name in WEIGHTS}, WEIGHTS)
        publisher.replicas("demo", {name: [replica(upstream.port, replica_id=name)] for name in WEIGHTS})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), workers=2, drain_seconds=60.0)
        each = [dataclasses.replace(settings, worker=index, take_over=True) for index in range(2)]
        living = [await stack.enter_async_context(worker_process(one)) for one in each]
        done = asyncio.Event()
        load = Load(settings.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(done))
            for turn in range(10):
                await until(lambda: load.counts.total() > 60 * (turn + 1), "requests pass")  # noqa: B023
                predecessor = living[turn % 2]
                living[turn % 2] = await stack.enter_async_context(worker_process(each[turn % 2]))
                assert await asyncio.wait_for(predecessor.wait(), PATIENCE) == 0
            done.set()
        assert load.failures == []
        for _ in range(20):  # one at a time: what two workers chose in the same instant has evened out
            got = await ask(settings.port)
            load.counts[got.headers["azureml-model-deployment"]] += 1
        total = load.counts.total()
        for name, weight in WEIGHTS.items():
            assert abs(load.counts[name] - total * weight / 100) <= 1, load.counts


async def test_what_the_old_one_has_under_way_ends_there(tmp_path: Path) -> None:
    release = asyncio.Event()

    async with publishing(tmp_path) as publisher, scripted(held(release)) as upstream:
        publisher.endpoint("demo", {"blue": deployment(concurrency=1)}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port, replica_id=name) for name in ("one", "two")]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), take_over=True)
        async with worker_process(settings) as old, caller(settings.port) as holding:
            holding.send(post(b"hold"))
            await until(lambda: upstream.requests, "a request is under way")
            async with worker_process(settings) as new:
                await until(lambda: not listens(old), "the old one has stopped accepting")
                for _ in range(10):  # one replica is the old worker's: the new one knows
                    assert (await ask(settings.port)).status == 200
                assert old.returncode is None
                release.set()
                got = await holding.answer()
                assert (got.body, got.headers["connection"]) == (b"ok", "close")
                assert await asyncio.wait_for(old.wait(), PATIENCE) == 0
                assert (await ask(settings.port)).status == 200
                assert new.returncode is None


async def test_a_successor_keeps_nothing_open_of_the_handover(tmp_path: Path) -> None:
    def lines(process: Process) -> int:
        """Connections over Unix sockets that have no name at our end."""
        found = psutil.Process(process.pid).net_connections("unix")
        return sum(one.type == socket.SOCK_STREAM and not one.laddr for one in found)

    async with publishing(tmp_path) as publisher, scripted() as upstream:
        publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), take_over=True)
        async with worker_process(settings) as old:
            alone = lines(old)
            async with worker_process(settings) as new:
                assert await asyncio.wait_for(old.wait(), PATIENCE) == 0
                await until(lambda: lines(new) <= alone, "the line to the predecessor is closed")


async def test_a_successor_that_dies_before_it_accepts_changes_nothing(tmp_path: Path) -> None:
    async with publishing(tmp_path) as publisher, scripted() as upstream:
        publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port())
        async with worker_process(settings) as old:
            for _ in range(3):
                inherited = await handover.ask(handover.door(settings.data.run, 0), settings.port)
                assert inherited is not None
                assert inherited.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                inherited.listener.close()
                inherited.close()
            assert await handover.ask(handover.door(settings.data.run, 0), settings.port + 1) is None
            assert await handover.ask(handover.door(settings.data.run, 1), settings.port) is None
            assert (await ask(settings.port)).status == 200
            assert old.returncode is None


async def test_where_there_is_nobody_or_only_somebody_who_ends_it_starts_at_once(tmp_path: Path) -> None:
    release = asyncio.Event()

    async with publishing(tmp_path) as publisher, scripted(held(release)) as upstream:
        publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), take_over=True, drain_seconds=60.0)
        async with worker_process(settings) as old, caller(settings.port) as holding:
            holding.send(post(b"hold"))
            await until(lambda: upstream.requests, "a request is under way")
            old.terminate()
            async with worker_process(settings):
                assert (await ask(settings.port)).status == 200
                assert old.returncode is None, "it drains"
                release.set()
                assert (await holding.answer()).body == b"ok"
                assert await asyncio.wait_for(old.wait(), PATIENCE) == 0


async def test_a_killed_predecessor_leaves_nothing_that_counts(tmp_path: Path) -> None:
    async with publishing(tmp_path) as publisher, scripted(held(asyncio.Event())) as upstream:
        publisher.endpoint("demo", {"blue": deployment(concurrency=1, wait_ms=60_000)}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await publisher.log.flush()
        settings = GatewaySettings(data=DataLayout(tmp_path), port=free_port(), take_over=True, drain_seconds=60.0)
        async with worker_process(settings) as old, caller(settings.port) as holding:
            holding.send(post(b"hold"))
            await until(lambda: upstream.requests, "the only place is taken")
            async with worker_process(settings):
                await until(lambda: not listens(old), "the old one has stopped accepting")
                waiting = asyncio.create_task(ask(settings.port))
                await asyncio.sleep(0.2)
                assert not waiting.done(), "the place is the old worker's"
                os.kill(old.pid, signal.SIGKILL)
                assert (await asyncio.wait_for(waiting, PATIENCE)).status == 200


async def test_under_tls_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("gateway", ["localhost"])
    async with publishing(tmp_path / "data") as publisher, scripted() as upstream:
        publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await publisher.log.flush()
        settings = GatewaySettings(
            data=DataLayout(tmp_path / "data"),
            port=free_port(),
            take_over=True,
            tls_cert=str(pair.chain),
            tls_key=str(pair.key),
        )
        done, answered = asyncio.Event(), 0

        async def anew(context: ssl.SSLContext) -> None:
            nonlocal answered
            while not done.is_set():
                async with tls_caller(settings.port, context) as connection:
                    connection.send(post(b"y", extra=BYE))
                    assert (await connection.everything()).endswith(b"y")
                    answered += 1

        async with worker_process(settings) as old, asyncio.TaskGroup() as load:
            for _ in range(3):
                load.create_task(anew(authority.trusted()))
            await until(lambda: answered > 20, "requests pass")
            async with worker_process(settings):
                assert await asyncio.wait_for(old.wait(), PATIENCE) == 0
                before = answered
                await until(lambda: answered > before + 20, "requests go on")
                done.set()
                await until(lambda: all(task.done() for task in load._tasks), "all have ended")
