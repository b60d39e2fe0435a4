"""Spans reach a collector that is there, wait within bounds for one that is not, and hold up nobody."""

from __future__ import annotations

import time

import pytest

from loadtests.waiting import free_port
from router.contract.errors import InvalidSpec
from router.runtime import otlp
from router.runtime.otlp import Exporter
from tests.support.collector import collector, span_text
from tests.support.gateway_rig import until


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(otlp, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(otlp, "LONGEST_PAUSE_SECONDS", 0.05)


def exporter(url: str) -> Exporter:
    return Exporter(url, {"service.name": "tides"}, version="1")


async def test_spans_arrive_in_order_and_together() -> None:
    async with collector() as there:
        way = exporter(there.url)
        way.open()
        for number in range(200):
            way.offer(span_text(number))
        await until(lambda: len(there.spans) == 200, "all spans")
        assert [one.name for one in there.spans] == [f"nr {number}" for number in range(200)]
        assert there.requests < 20
        assert there.resources[0] == {"service.name": "tides"}
        await until(lambda: way.sent == 200, "the answer")
        await way.close(1)
        assert (way.sent, way.dropped, way.refused) == (200, 0, 0)


async def test_a_collector_that_is_away_or_busy_gets_them_later() -> None:
    port = free_port()
    way = exporter(f"http://127.0.0.1:{port}")
    way.open()
    way.offer(span_text(0))
    await until(lambda: way._failures > 1, "failed tries")
    async with collector(port) as there:
        there.statuses = [503, 429]
        await until(lambda: there.spans, "the span")
        await way.close(1)
    assert [one.name for one in there.spans] == ["nr 0"]
    assert (way.sent, way.dropped, way.refused) == (1, 0, 0)


async def test_what_a_collector_does_not_want_is_given_up_and_counted() -> None:
    async with collector() as there:
        there.statuses = [400]
        way = exporter(there.url)
        way.open()
        way.offer(span_text(0))
        await until(lambda: way.refused == 1, "a refusal")
        there.rejects = 1
        way.offer(span_text(1))
        await until(lambda: way.refused == 2, "a part that was not taken")
        await way.close(1)
    assert (way.sent, way.dropped) == (0, 0)


async def test_a_full_queue_drops_what_comes_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "QUEUE_BYTES", 10_000)
    way = exporter(f"http://127.0.0.1:{free_port()}")
    way.open()
    for number in range(100):
        way.offer(span_text(number, size=900))
    assert 85 <= way.dropped <= 95
    begun = time.monotonic()
    await way.close(30)
    assert way.dropped == 100
    assert time.monotonic() - begun < 25, "nobody waits for a collector that is away"
    await way.close(1)


async def test_what_waits_goes_out_at_the_end() -> None:
    async with collector() as there:
        way = exporter(there.url)
        way.open()
        for number in range(3000):
            way.offer(span_text(number, size=500))
        await way.close(20)
        assert sorted({one.name[:7].rstrip("x") for one in there.spans}) == sorted({f"nr {n}" for n in range(3000)})
        assert (way.sent, way.dropped) == (3000, 0)


@pytest.mark.parametrize("url", ["collector:4318", "http://collector", "http://collector:4318/v1/traces", ""])
def test_an_address_that_is_none_names_the_flag(url: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        exporter(url)
    assert raised.value.problems[0].field == "otlp"
