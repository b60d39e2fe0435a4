"""Several workers on one port, as real processes: exact in sum, one concurrency, and a death costs only its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections import Counter
from pathlib import Path

from tests.support.gateway_rig import PATIENCE, deployment, replica, until, worker_process
from tests.support.gateway_upstream import Caller, Request, ask, caller, post, scripted
from tests.support.gateway_workers import Process, one_caller_for_each_worker, publishing, workers


async def test_the_split_is_exact_in_the_sum_of_all_workers(tmp_path: Path) -> None:
    async with publishing(tmp_path) as publisher, scripted() as upstream:
        documents = {"blue": deployment(), "green": deployment(), "red": deployment()}
        publisher.endpoint("demo", documents, {"blue": 83, "green": 10, "red": 7})
        publisher.replicas("demo", {name: [replica(upstream.port, replica_id=name)] for name in documents})
        async with workers(tmp_path, publisher) as (settings, _):
            counts: Counter[str] = Counter()
            serving: set[str] = set()

            async def load(requests: int) -> None:
                async with caller(settings.port) as connection:
                    for _ in range(requests):
                        connection.send(post(b"x"))
                        got = await connection.answer()
                        assert got.status == 200
                        counts[got.headers["azureml-model-deployment"]] += 1
                        serving.add(got.headers["x-request-id"][:23])

            await asyncio.gather(*(load(50) for _ in range(24)))
            # One at a time over both workers: what two workers chose in the same instant has evened out.
            for _ in range(20):
                await load(1)
            assert len(serving) == 2, "the kernel gave every connection to one worker"
            total = sum(counts.values())
            for name, weight in (("blue", 83), ("green", 10), ("red", 7)):
                assert abs(counts[name] - total * weight / 100) <= 1, counts


async def routed_by(connections: list[Caller], step: int) -> None:
    """Wait until each worker knows the step's host. A request without a key is no request of the split."""
    for connection in connections:
        status = 404
        deadline = time.monotonic() + PATIENCE
        while status == 404 and time.monotonic() < deadline:
            connection.send(b"GET / HTTP/1.1\r\nHost: step%d.example\r\n\r\n" % step)
            status = (await connection.answer()).status
        assert status == 401


async def test_one_hundred_changes_of_weights_add_up_to_what_was_asked_for(tmp_path: Path) -> None:
    async with publishing(tmp_path) as publisher, scripted() as upstream, contextlib.AsyncExitStack() as stack:
        documents = {"blue": deployment(), "green": deployment()}
        publisher.endpoint("demo", documents, {"blue": 100})
        publisher.replicas("demo", {name: [replica(upstream.port, replica_id=name)] for name in documents})
        settings, _ = await stack.enter_async_context(workers(tmp_path, publisher))
        each = await one_caller_for_each_worker(stack, settings.port)
        crowd = [await stack.enter_async_context(caller(settings.port)) for _ in range(6)]
        expected, seen = 0, Counter[str]()

        async def send(connection: Caller, requests: int) -> None:
            nonlocal expected
            for _ in range(requests):
                connection.send(post(b"x"))
                got = await connection.answer()
                assert got.status == 200
                seen[got.headers["azureml-model-deployment"]] += 1
                expected += green

        for step in range(100):
            green = 1 + step * 37 % 99
            extras = {"hosts": [f"step{step}.example"]}
            publisher.endpoint("demo", documents, {"blue": 100 - green, "green": green}, tidegate=extras)
            await routed_by(each, step)
            await asyncio.gather(*(send(connection, 1 + (step + index) % 5) for index, connection in enumerate(crowd)))
            # One at a time over both workers: what two workers chose in the same instant has evened out.
            for connection in (*each, *each):
                await send(connection, 1)
            assert abs(seen["green"] * 100 - expected) <= 100, f"after {step + 1} changes"
        assert seen.total() > 1500


async def test_one_replica_takes_its_concurrency_over_all_workers_and_the_next_is_woken(tmp_path: Path) -> None:
    inside = most = 0

    async def one_at_a_time(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal inside, most
        await request.read_body()
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.002)
        inside -= 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with publishing(tmp_path) as publisher, scripted(one_at_a_time) as upstream:
        publisher.endpoint("demo", {"blue": deployment(concurrency=2)}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        async with workers(tmp_path, publisher) as (settings, _):

            async def load() -> list[int]:
                async with caller(settings.port) as connection:
                    statuses = []
                    for _ in range(40):
                        connection.send(post())
                        statuses.append((await connection.answer()).status)
                    return statuses

            results = await asyncio.gather(*(load() for _ in range(4)))
            assert {status for statuses in results for status in statuses} == {200}
            assert most == 2


async def test_a_killed_worker_gives_its_places_back_and_its_successor_keeps_the_split(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def hold(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        if request.body == b"hold":
            await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with publishing(tmp_path) as publisher, scripted(hold) as upstream:
        publisher.endpoint("demo", {"blue": deployment(concurrency=1, timeout_ms=60_000)}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        async with workers(tmp_path, publisher) as (settings, processes):
            holding = asyncio.create_task(_ask_and_lose(settings.port))
            await until(lambda: upstream.requests, "one request holds the only place")
            owner = await _owner(processes)
            os.kill(owner.pid, signal.SIGKILL)
            await owner.wait()
            await holding
            # Its place was never given back by it; the other worker must find that out by itself.
            for _ in range(5):
                assert (await ask(settings.port)).status == 200
            index = processes.index(owner)
            async with worker_process(dataclasses.replace(settings, worker=index)):
                for _ in range(20):
                    assert (await ask(settings.port)).status == 200
        release.set()


async def _ask_and_lose(port: int) -> None:
    async with caller(port) as connection:
        connection.send(post(b"hold"))
        assert await connection.ended()


async def _owner(processes: list[Process]) -> Process:
    """The worker that has a connection from a caller."""
    import psutil

    for process in processes:
        found = psutil.Process(process.pid).net_connections("tcp")
        if any(one.status == psutil.CONN_ESTABLISHED for one in found):
            return process
    raise AssertionError("no worker has a connection")


async def test_stopping_one_of_two_workers_under_load_loses_nothing(tmp_path: Path) -> None:
    async with publishing(tmp_path) as publisher, scripted() as upstream:
        publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
        publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        async with workers(tmp_path, publisher) as (settings, processes):
            done = asyncio.Event()
            statuses: Counter[int] = Counter()

            async def load() -> None:
                while not done.is_set():
                    statuses[(await ask(settings.port, post(extra="Connection: close\r\n"))).status] += 1

            loads = [asyncio.create_task(load()) for _ in range(6)]
            await until(lambda: statuses[200] > 50, "traffic flows")
            processes[0].terminate()
            assert await asyncio.wait_for(processes[0].wait(), 30) == 0
            before = statuses[200]
            await until(lambda: statuses[200] > before + 50, "traffic flows on")
            done.set()
            await asyncio.gather(*loads)
            assert set(statuses) == {200}
