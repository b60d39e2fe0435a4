"""A mirror that talks to the autoscaler past the log: shadows that wait are heard, and replicas told directly get them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from autoscaler.control.admin import admin_site
from autoscaler.control.answers import Answers
from mirror.discovery import Directory
from router.contract.codec import encode_replicas
from router.contract.events import REPLICAS, DeploymentReplicas, EndpointReplicas, Replica, ReplicaState
from router.runtime.log.base import Message
from tests.support.direct_scaler import Scaler
from tests.support.gateway_rig import until
from tests.support.mirror_candidate import answer, candidate
from tests.support.mirror_gateway import JSON_HEAD, gateway
from tests.support.mirror_service import mirror


def told(generation: int, version: int, port: int = 1) -> EndpointReplicas:
    replica = Replica(f"r{generation}-{version}", "127.0.0.1", port, ReplicaState.READY, "t")
    return EndpointReplicas(
        "shop", version, generation, time.time_ns(), {"green": DeploymentReplicas(1, 1, replicas=(replica,))}
    )


async def test_a_shadow_that_waits_is_heard_directly_and_sent_to_a_replica_told_directly(tmp_path: Path) -> None:
    scaler = Scaler()
    path = tmp_path / "autoscaler.sock"
    async with (
        admin_site(path, Answers(lambda *_: None, scaler.take)),
        candidate(answer(b'{"y": 1}')) as green,
        mirror(tmp_path / "data", {"green": 4}, autoscaler=(f"unix:{path}",)) as running,
    ):
        async with gateway(running.socket) as worker:
            number = worker.open(JSON_HEAD, body=b'{"x":1}')
            worker.respond(number, b'{"y":1}')
            await until(lambda: scaler.arrivals("shop") == 1, "heard directly")
            assert all(one.shadow for one in scaler.heard.values())
            scaler.published["shop"] = told(1, 9, green.port)
            await worker.wait_done(number)
        (event,) = await running.wait_shadows(1)
        await running.finish()
    assert (event.equal, event.dropped) == (True, "")
    last = scaler.newest("shop")
    assert last is not None
    assert last.replicas_version == 9, "the last word was handed over before the end"


@pytest.mark.parametrize("direct", [False, True])
def test_only_the_newer_word_counts(direct: bool) -> None:
    directory = Directory()

    def take(event: EndpointReplicas) -> str | None:
        if direct:
            return directory.take_replicas(encode_replicas(event))
        return directory.apply(Message(REPLICAS, 0, 0, "shop", encode_replicas(event), "w", 0, 0))

    steps = [
        ((2, 5), True),
        ((2, 5), False),  # the same again
        ((2, 4), False),  # late
        ((1, 9), False),  # an owner that does not know yet that it is none
        ((3, 6), True),  # a later owner that knows what was
        ((4, 1), True),  # a later owner whose log was empty
        ((3, 7), False),
        ((4, 2), True),
    ]
    newest = (0, 0)
    for order, counts in steps:
        assert take(told(*order)) == ("shop" if counts else None), order
        newest = order if counts else newest
        view = directory.view("shop")
        assert (view.replicas_generation, view.replicas_version) == newest
        assert view.replicas["green"][0].id == "r{}-{}".format(*newest)


def test_what_makes_no_sense_is_skipped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    directory = Directory()
    for _ in range(5):
        assert directory.take_replicas(b"\xff") is None
    assert directory.skipped == 5
    assert len(caplog.records) == 1, "no storm of lines"
