"""A gateway that talks to its autoscaler past the log: scaling goes on, and whatever the autoscaler does, so do requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from autoscaler.control.admin import admin_site
from autoscaler.control.answers import Answers
from router.contract.codec import encode_replicas
from router.contract.events import (
    DEMAND,
    REPLICAS,
    DeploymentReplicas,
    EndpointReplicas,
    Phase,
    Replica,
    ReplicaState,
)
from router.contract.handover import handed_bytes
from router.runtime import courier
from router.runtime.log.embedded import EmbeddedLog
from tests.support.direct_scaler import Scaler
from tests.support.direct_target import Listener, listening, ok
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import ask, post, scripted

BLUE = {"blue": deployment()}
ALL = {"blue": 100}


def told(version: int, *replicas: Replica, generation: int = 1) -> EndpointReplicas:
    """A replica set of the endpoint `demo`."""
    deployments = {"blue": DeploymentReplicas(len(replicas), 1, Phase.READY, replicas=replicas)}
    return EndpointReplicas("demo", version, generation, time.time_ns(), deployments)


def say(rig: Rig, event: EndpointReplicas) -> None:
    """By the log."""
    rig.publisher.log.append(REPLICAS, "demo", encode_replicas(event))


@contextlib.asynccontextmanager
async def site(folder: Path, scaler: Scaler, listen: tuple[str, int] | None = None) -> AsyncIterator[Any]:
    """The autoscaler's real site, over `scaler`."""
    async with admin_site(folder / "run" / "autoscaler.sock", Answers(lambda *_: None, scaler.take), listen) as bound:
        yield bound


async def asked_until_routed(rig: Rig, revision: int) -> None:
    """Ask until reports say that the worker routes by `revision`, and once more."""
    while rig.demand[-1].revision < revision:
        assert (await ask(rig.port)).status == 200
    assert (await ask(rig.port)).status == 200


def target(folder: Path) -> str:
    return f"unix:{folder / 'run' / 'autoscaler.sock'}"


async def ids_on_the_log(folder: Path) -> set[tuple[str, int]]:
    """(writer, sequence) of all demand that was appended."""
    log = EmbeddedLog(folder / "log")
    found = set()
    try:
        reader = await log.reader((DEMAND,))
        while not await reader.caught_up():
            found |= {(one.writer, one.sequence) for one in await reader.next(1.0)}
        await reader.close()
    finally:
        await log.close()
    return found


@pytest.mark.parametrize("tcp", [False, True])
async def test_who_waits_at_zero_is_heard_directly_and_served_by_replicas_told_directly(
    tmp_path: Path, tcp: bool
) -> None:
    scaler = Scaler()
    async with site(tmp_path, scaler, ("127.0.0.1", 0)) as bound:
        where = f"http://{bound[0]}:{bound[1]}" if tcp else target(tmp_path)
        async with scripted() as upstream, gateway(tmp_path, autoscaler=(where,)) as rig:
            rig.publisher.endpoint("demo", BLUE, ALL)
            await until(lambda: scaler.newest("demo"), "the endpoint is known")
            asked = asyncio.create_task(ask(rig.port))
            await until(lambda: scaler.arrivals("demo") == 1, "heard directly")
            scaler.published["demo"] = told(7, replica(upstream.port))
            assert (await asked).status == 200
            await until(lambda: (one := scaler.newest("demo")) and one.replicas_version == 7, "acknowledged")
    assert await ids_on_the_log(tmp_path) == set(scaler.heard), "each message went both ways, the last ones too"


async def test_a_victim_told_directly_gets_no_request_more_and_its_end_is_reported(tmp_path: Path) -> None:
    scaler = Scaler()
    async with (
        site(tmp_path, scaler),
        scripted() as one,
        scripted() as other,
        gateway(tmp_path, autoscaler=(target(tmp_path),)) as rig,
    ):
        await rig.publish("demo", BLUE, ALL, {"blue": [replica(one.port), replica(other.port)]})
        victim = replica(one.port, ReplicaState.DRAINING)
        scaler.published["demo"] = told(2, victim, replica(other.port))
        drained = ((victim.id, 0),)
        await until(lambda: (last := scaler.newest("demo")) and last.draining == drained, "the drain is reported")
        before = len(one.requests)
        assert {(await ask(rig.port)).status for _ in range(10)} == {200}
        assert (len(one.requests) - before, len(other.requests)) == (0, 10)


async def test_an_autoscaler_that_comes_back_hears_what_it_missed_and_nobody_waited_for_it(tmp_path: Path) -> None:
    scaler = Scaler()
    async with scripted() as upstream, gateway(tmp_path, autoscaler=(target(tmp_path),)) as rig:
        async with site(tmp_path, scaler):
            await rig.publish("demo", BLUE, ALL, {"blue": [replica(upstream.port)]})
            await until(lambda: scaler.heard, "heard")
        missed = len(rig.demand)
        requests = 0
        while len(rig.demand) < missed + 100:  # two seconds and more
            assert (await ask(rig.port)).status == 200
            requests += 1
        async with site(tmp_path, scaler):
            await until(lambda: scaler.arrivals("demo") == requests, "every request counted once")
    assert requests > 10


@pytest.mark.parametrize("trouble", ["nobody", "silent", "nonsense", "resets"])
async def test_whatever_the_autoscaler_does_requests_are_answered_and_little_is_kept(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "QUEUE_BYTES", 5_000)
    monkeypatch.setattr(courier, "BATCH_BYTES", 2_000)
    monkeypatch.setattr(courier, "DEADLINE_SECONDS", 0.2)
    replies = {"silent": None, "nonsense": b"\0" * 100 + b"\r\n\r\n", "resets": b""}
    listener = Listener(lambda _: replies[trouble])
    (tmp_path / "run").mkdir()
    async with scripted() as upstream, contextlib.AsyncExitStack() as stack:
        if trouble != "nobody":
            await stack.enter_async_context(listening(tmp_path / "run" / "autoscaler.sock", listener))
        async with gateway(tmp_path, autoscaler=(target(tmp_path),)) as rig:
            await rig.publish("demo", BLUE, ALL, {"blue": [replica(upstream.port)]})
            while len(rig.demand) < 80:
                assert (await ask(rig.port, post(b"x"))).status == 200
            await stack.aclose()
            well = Listener(lambda _: ok())
            async with listening(tmp_path / "run" / "autoscaler.sock", well):
                back = len(rig.demand)
                await until(lambda: well.messages, "heard again")
                kept = well.messages[0].sequence
                await until(lambda: well.messages[-1].sequence > back, "the present is heard")
    assert kept > 20, "the oldest had gone"
    assert sum(handed_bytes(one) for one in well.messages if one.sequence < back) <= 5_000 + 2_000


async def test_only_the_newer_word_counts_whichever_way_and_order_it_comes(tmp_path: Path) -> None:
    scaler = Scaler()
    async with (
        site(tmp_path, scaler),
        scripted() as right,
        scripted() as wrong,
        gateway(tmp_path, autoscaler=(target(tmp_path),)) as rig,
    ):
        good, bad = replica(right.port), replica(wrong.port)
        await rig.publish("demo", BLUE, ALL, {})
        steps = [
            # (the word, whether it counts)
            (told(5, good, generation=2), True),
            (told(5, bad, generation=2), False),  # the same again
            (told(4, bad, generation=2), False),  # late
            (told(9, bad, generation=1), False),  # an owner that does not know yet that it is none
            (told(6, good, generation=2), True),
            (told(7, good, generation=3), True),  # a later owner that knows what was
            (told(1, good, generation=4), True),  # a later owner whose log was empty
            (told(8, bad, generation=3), False),
        ]
        known = 0
        for event, counts in steps:
            say(rig, event)
            known = event.version if counts else known
            # By the log's order, what came before a revision has been applied when the revision has.
            await asked_until_routed(rig, rig.publisher.endpoint("demo", BLUE, ALL))
            assert rig.demand[-1].replicas_version == known, event
        scaler.published["demo"] = told(2, good, generation=4)
        await until(lambda: rig.demand[-1].replicas_version == 2, "told directly")
        say(rig, told(2, bad, generation=4))
        await asked_until_routed(rig, rig.publisher.endpoint("demo", BLUE, ALL))
    assert wrong.requests == []


async def test_an_endpoint_that_comes_back_is_routed_by_the_newest_word_of_before(tmp_path: Path) -> None:
    scaler = Scaler()
    async with site(tmp_path, scaler), scripted() as upstream, gateway(tmp_path) as rig:
        rig.publisher.endpoint("demo", BLUE, ALL)
        say(rig, told(3, replica(upstream.port)))
        await rig.applied("demo", version=3)
        rig.publisher.delete("demo")
        revision = rig.publisher.endpoint("demo", BLUE, ALL)
        await rig.applied("demo", revision=revision, version=3)
        assert (await ask(rig.port)).status == 200
    assert scaler.heard == {}, "nobody is told when nobody was named"
