"""Queues, limits and the activator: who waits, how long, and who is refused."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from router.contract.events import Flag, Outcome, ReplicaState
from router.policy import admission
from tests.support.gateway_gate import Gate
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Answer, Request, ask, caller, echo, post, scripted


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


def code(answer: Answer) -> str:
    found: str = json.loads(answer.body)["error"]["code"]
    return found


async def test_two_hundred_first_requests_at_zero_are_all_answered(rig: Rig) -> None:
    async with scripted() as upstream:
        await rig.publish("demo", {"blue": deployment(concurrency=1, wait_ms=1)}, {"blue": 100}, {"blue": []})
        asked = [asyncio.create_task(ask(rig.port, post(b"%d" % number))) for number in range(200)]
        await until(lambda: any(row.queued == 200 for report in rig.demand for row in report.rows), "200 wait")
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port, ReplicaState.STARTING)]})
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        answers = await asyncio.gather(*asked)
        assert [(one.status, one.body) for one in answers] == [(200, b"%d" % number) for number in range(200)]
        assert upstream.connections == 1, "more at once than the replica's concurrency"
    records = await until(lambda: rig.records if len(rig.records) == 200 else None, "200 records")
    assert all(one.flags & Flag.FROM_ZERO for one in records)


def most_queued(rig: Rig) -> int:
    return max((row.queued for report in rig.demand for row in report.rows), default=0)


async def test_who_comes_while_the_backlog_from_zero_is_worked_off_joins_it(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream:
        await rig.publish("demo", {"blue": deployment(concurrency=1, wait_ms=1)}, {"blue": 100}, {})
        asked = [asyncio.create_task(ask(rig.port)) for _ in range(5)]
        await until(lambda: most_queued(rig) == 5, "the backlog waits")
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await until(lambda: gate.inside, "the first replica works")
        await until(lambda: rig.demand[-1].rows[0].oldest_wait_seconds > 1.5, "time passes")
        asked += [asyncio.create_task(ask(rig.port)) for _ in range(20)]
        await until(lambda: most_queued(rig) == 24 or any(one.done() for one in asked), "they join it")
        for _ in asked:
            gate.passes.release()
        assert Counter(one.status for one in await asyncio.gather(*asked)) == {200: 25}
        # The backlog is empty: from here on Azure's limit holds again.
        asked = [asyncio.create_task(ask(rig.port)) for _ in range(10)]
        await until(lambda: sum(map(asyncio.Task.done, asked)) == 9, "one is in, one has waited for 1 ms")
        gate.passes.release()
        answers = await asyncio.gather(*asked)
        assert Counter(code(one) if one.status != 200 else "" for one in answers) == {
            "": 1, "QueueTimeout": 1, "TooManyRequests": 8
        }  # fmt: skip


async def test_a_backlog_from_zero_that_lasts_too_long_takes_nobody_from_the_limit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "JOINING_AT_LEAST_SECONDS", 0.0)
    gate = Gate()
    async with scripted(gate.script) as upstream:
        await rig.publish("demo", {"blue": deployment(concurrency=1)}, {"blue": 100}, {})
        asked = [asyncio.create_task(ask(rig.port)) for _ in range(5)]
        await until(lambda: most_queued(rig) == 5, "the backlog waits")
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await until(lambda: gate.inside, "the first replica works")
        waited = rig.demand[-1].rows[0].oldest_wait_seconds
        await until(lambda: rig.demand[-1].rows[0].oldest_wait_seconds > 2 * waited + 0.5, "as long again")
        later = [asyncio.create_task(ask(rig.port)) for _ in range(6)]
        await until(lambda: sum(map(asyncio.Task.done, later)) == 4, "two may wait behind the backlog, four may not")
        for _ in range(7):
            gate.passes.release()
        assert Counter(one.status for one in await asyncio.gather(*asked)) == {200: 5}
        assert Counter(one.status for one in await asyncio.gather(*later)) == {200: 2, 429: 4}


async def test_who_comes_to_another_worker_joins_the_backlog_too(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        gateway(tmp_path, workers=2, worker=0) as one,
        gateway(tmp_path, workers=2, worker=1) as other,
        scripted(gate.script) as upstream,
    ):
        await one.publish("demo", {"blue": deployment(concurrency=1, wait_ms=1)}, {"blue": 100}, {})
        asked = [asyncio.create_task(ask(one.port)) for _ in range(5)]
        await until(lambda: most_queued(one) == 5, "the backlog waits in one worker")
        one.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        await until(lambda: gate.inside, "the first replica works")
        asked += [asyncio.create_task(ask(other.port)) for _ in range(10)]
        await until(lambda: most_queued(other) == 10 or any(task.done() for task in asked), "they join it")
        for _ in asked:
            gate.passes.release()
        assert Counter(task.status for task in await asyncio.gather(*asked)) == {200: 15}
        assert gate.most == 1


async def test_demand_at_zero_is_reported_at_once(tmp_path: Path) -> None:
    async with gateway(tmp_path, demand_period_seconds=3600) as rig:
        rig.publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
        while (await ask(rig.port, post(key="wrong"))).status != 401:
            await asyncio.sleep(0.01)
        async with caller(rig.port) as connection:
            connection.send(post())
            report = (await until(lambda: rig.demand, "a report between two periods"))[0]
            assert [(row.deployment, row.arrivals, row.queued) for row in report.rows] == [("blue", 1, 1)]


async def test_waiting_from_zero_ends_with_503(tmp_path: Path) -> None:
    async with gateway(tmp_path, activation_seconds=0.2) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {})
        got = await ask(rig.port)
        assert (got.status, code(got)) == (503, "NoReplicaReady")
        assert int(got.headers["retry-after"]) > 0
        record = await until(lambda: rig.records, "its record")
        assert record[0].outcome == Outcome.NO_REPLICA


async def test_no_more_wait_for_a_first_replica_than_may(tmp_path: Path) -> None:
    async with gateway(tmp_path, max_waiting=3) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {})
        asked = [asyncio.create_task(ask(rig.port)) for _ in range(5)]
        done = await until(
            lambda: [one for one in asked if one.done()] if sum(map(asyncio.Task.done, asked)) == 2 else 0, "two"
        )
        assert {task.result().status for task in done} == {429}
        async with scripted() as upstream:
            rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
            assert Counter(one.status for one in await asyncio.gather(*asked)) == {200: 3, 429: 2}


async def test_twice_the_concurrency_may_be_in_and_no_more(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream:
        await rig.publish(
            "demo", {"blue": deployment(concurrency=3)}, {"blue": 100}, {"blue": [replica(upstream.port)]}
        )
        asked = [asyncio.create_task(ask(rig.port)) for _ in range(10)]
        await until(lambda: sum(map(asyncio.Task.done, asked)) == 4, "four are refused")
        refused = [one.result() for one in asked if one.done()]
        assert {(one.status, code(one), one.headers["retry-after"]) for one in refused} == {
            (429, "TooManyRequests", "1")
        }
        for _ in range(6):
            gate.passes.release()
        assert Counter(one.status for one in await asyncio.gather(*asked)) == {200: 6, 429: 4}
        assert gate.most == 3


async def test_waiting_in_the_queue_ends_with_429(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream:
        settings = deployment(concurrency=1, wait_ms=50)
        await rig.publish("demo", {"blue": settings}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        first = asyncio.create_task(ask(rig.port))
        await until(lambda: gate.inside, "the first is in")
        got = await ask(rig.port)
        assert (got.status, code(got)) == (429, "QueueTimeout")
        gate.passes.release()
        assert (await first).status == 200


async def test_the_oldest_goes_first_and_who_left_is_skipped(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream:
        await rig.publish(
            "demo", {"blue": deployment(concurrency=2)}, {"blue": 100}, {"blue": [replica(upstream.port)]}
        )
        filling = [asyncio.create_task(ask(rig.port, post(b"f"))) for _ in range(2)]
        await until(lambda: gate.inside == 2, "it is full")

        def queued() -> int:
            return rig.demand[-1].rows[0].queued

        async with caller(rig.port) as left, caller(rig.port) as stays:
            left.send(post(b"left"))
            await until(lambda: queued() == 1, "one waits")
            stays.send(post(b"stays"))
            await until(lambda: queued() == 2, "two wait")
            left.abort()
            await until(lambda: queued() == 1, "one has left")
            gate.passes.release()
            await until(lambda: len(upstream.requests) == 3, "the next is in")
            for _ in range(2):
                gate.passes.release()
            assert (await stays.answer()).body == b"stays"
        await asyncio.gather(*filling)
        assert [one.body for one in upstream.requests] == [b"f", b"f", b"stays"]


async def test_large_bodies_wait_in_bounded_memory(rig: Rig) -> None:
    body = b"x" * (4 << 20)
    await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {})
    async with scripted() as upstream, caller(rig.port) as connection:
        connection.writer.transport.set_write_buffer_limits(high=0)
        connection.send(post(body))
        await until(lambda: any(row.queued for report in rig.demand for row in report.rows), "it waits")
        assert connection.writer.transport.get_write_buffer_size() > 0, (
            "the whole body was taken although nobody is ready"
        )
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        assert (await connection.answer()).body == body


async def test_who_waits_for_a_deployment_that_loses_its_traffic_goes_to_the_other(rig: Rig) -> None:
    async with scripted() as upstream:
        documents = {"blue": deployment(), "green": deployment()}
        sets = {"blue": [replica(upstream.port)], "green": []}
        await rig.publish("demo", documents, {"green": 100}, sets)
        asked = asyncio.create_task(ask(rig.port))
        named = asyncio.create_task(ask(rig.port, post(extra="azureml-model-deployment: green\r\n")))
        await until(lambda: any(row.queued == 2 for report in rig.demand for row in report.rows), "they wait")
        rig.publisher.endpoint("demo", documents, {"blue": 100})
        got = await asked
        assert (got.status, got.headers["azureml-model-deployment"]) == (200, "blue")
        assert not named.done()
        rig.publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
        assert (await named).status == 404


async def test_replicas_that_all_vanish_hold_their_requests(rig: Rig) -> None:
    gate = Gate()
    async with scripted(gate.script) as upstream, scripted() as successor:
        settings = deployment(concurrency=1, wait_ms=200)
        await rig.publish("demo", {"blue": settings}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        first = asyncio.create_task(ask(rig.port, post(b"first")))
        await until(lambda: gate.inside, "the first is in")
        second = asyncio.create_task(ask(rig.port, post(b"second")))
        await until(lambda: rig.demand[-1].rows[0].queued, "the second waits")
        version = rig.publisher.replicas("demo", {"blue": []})
        await rig.applied("demo", version=version)
        await until(lambda: rig.demand[-1].rows[0].oldest_wait_seconds > 0.4, "longer than max_queue_wait_ms")
        assert not second.done()
        rig.publisher.replicas("demo", {"blue": [replica(successor.port)]})
        assert (await second).body == b"second"
        gate.passes.release()
        assert (await first).body == b"first"


async def test_a_queue_that_begins_is_reported_before_its_time(tmp_path: Path) -> None:
    gate = Gate()
    async with gateway(tmp_path, demand_period_seconds=3600.0) as rig, scripted(gate.script) as upstream:
        rig.publisher.endpoint("demo", {"blue": deployment(concurrency=2)}, {"blue": 100})
        rig.publisher.replicas("demo", {"blue": [replica(upstream.port)]})
        gate.passes.release()
        while (await ask(rig.port)).status != 200:
            await asyncio.sleep(0.01)
        asked = [asyncio.create_task(ask(rig.port)) for _ in range(2)]
        await until(lambda: gate.inside == 2, "the replica is full")
        asked += [asyncio.create_task(ask(rig.port)) for _ in range(2)]
        await until(lambda: most_queued(rig) == 2, "both are reported as waiting")
        assert sum(row.arrivals for report in rig.demand for row in report.rows) == 5
        for _ in asked:
            gate.passes.release()
        assert [one.status for one in await asyncio.gather(*asked)] == [200] * 4


async def test_demand_adds_up(rig: Rig) -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        await echo(request, writer)

    async with scripted(slow) as upstream:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        await asyncio.gather(*(ask(rig.port) for _ in range(20)))

        def rows(name: str) -> float:
            return float(sum(getattr(row, name) for report in rig.demand for row in report.rows))

        await until(lambda: rows("completions") == 20, "all are counted")
        assert rows("arrivals") == 20
        assert 20 * 0.05 <= rows("busy_seconds") < 20 * 5
        latencies = [row.latency for report in rig.demand for row in report.rows if row.latency]
        assert sum(map(sum, latencies)) == 20
        last = rig.demand[-1].rows[0]
        assert (last.in_flight, last.queued) == (0, 0)


async def test_one_hundred_weight_changes_under_load_lose_nothing_and_stay_exact(rig: Rig) -> None:
    async with scripted() as upstream:
        documents = {"blue": deployment(), "green": deployment()}
        sets = {name: [replica(upstream.port, replica_id=name)] for name in documents}
        await rig.publish("demo", documents, {"blue": 100}, sets)
        counts: Counter[str] = Counter()
        done = asyncio.Event()

        async def load() -> None:
            async with caller(rig.port) as connection:
                while not done.is_set():
                    connection.send(post(b"x"))
                    got = await connection.answer()
                    counts[f"{got.status} {got.headers['azureml-model-deployment']}"] += 1

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for number in range(100):
            green = number * 37 % 101
            revision = rig.publisher.endpoint("demo", documents, {"blue": 100 - green, "green": green})
            if number % 10 == 9:
                await rig.applied("demo", revision=revision)
        done.set()
        await asyncio.gather(*loads)
        assert set(counts) <= {"200 blue", "200 green"}
        # From here on with one weight: the balances carried over must not distort it by more than a request.
        revision = rig.publisher.endpoint("demo", documents, {"blue": 90, "green": 10})
        await rig.applied("demo", revision=revision)
        names = [(await ask(rig.port)).headers["azureml-model-deployment"] for _ in range(100)]
        assert abs(names.count("green") - 10) <= 1
