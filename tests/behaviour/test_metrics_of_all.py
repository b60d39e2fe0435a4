"""One scrape of the control plane finds the numbers of every process of its data folder, and the page names each of them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autoscaler.backends.kubernetes import figures as kubernetes_figures
from autoscaler.backends.memory import MemoryBackend
from autoscaler.control import service
from router.contract.events import DEMAND, REQUESTS
from router.control import metrics
from router.control.fleet import Fleet
from router.gateway import figures as gateway_figures
from router.gateway import guard
from router.gateway.refusals import Refusals
from router.gateway.state import Counters
from router.runtime import vitals
from router.runtime.courier import Courier
from router.runtime.exposition import single, text_of
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.log.spool_link import Link, health_of
from router.runtime.otlp import Exporter
from router.runtime.settings import AutoscalerSettings
from router.runtime.vitals import offered, writer_families
from tests.support.control_plane import Running, running, until
from tests.support.gateway_rig import gateway
from tests.support.gateway_upstream import scripted

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


@contextlib.asynccontextmanager
async def autoscaler(plane: Running) -> AsyncIterator[None]:
    """A real one on the control plane's folder."""
    data = plane.settings.data
    log, stop, ready = EmbeddedLog(data.log), asyncio.Event(), asyncio.Event()
    settings = AutoscalerSettings(data, data.root / "cache", tick_seconds=0.1)
    backend = MemoryBackend()
    run = service.run(settings, {"memory": backend}, log, stop, ready.set, default_backend="memory")
    task = asyncio.create_task(run)
    try:
        await ready.wait()
        yield
    finally:
        stop.set()
        await task
        await backend.close(end_replicas=True)
        await log.close()


async def scrape(plane: Running) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their labels' names) → value. The text must be one that Prometheus takes."""
    text = (await plane.call("GET", "/metrics")).text
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names)), "each metric is told once"
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_gateways_autoscaler_and_control_plane_in_one_scrape(plane: Running) -> None:
    await plane.endpoint("shop", "blue")
    target = f"unix:{plane.settings.data.autoscaler_socket}"
    async with autoscaler(plane), scripted():
        async with gateway(plane.settings.data.root, autoscaler=(target,)):

            async def delivered() -> Any:
                found = await scrape(plane)
                return found if found["tidegate_courier_delivered_messages_total", "gateway-0"] >= 2 else None

            found = await until("demand went directly", delivered)
            assert found["tidegate_process_up", "gateway-0"] == found["tidegate_process_up", "autoscaler"] == 1
            assert found["tidegate_autoscaler_demand_messages_total", "autoscaler", "direct"] >= 2
            assert found["tidegate_autoscaler_turns_total", "autoscaler"] >= 1
        gone = await scrape(plane)
        assert ("tidegate_process_up", "gateway-0") not in gone, "a gateway that has ended is not missed"
        assert gone["tidegate_process_up", "autoscaler"] == 1


async def test_drops_of_every_writer_stand_side_by_side_and_one_that_hangs_holds_up_nobody(
    plane: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plane.settings.data.vitals
    plane.log.buffer.dropped[DEMAND] += 2

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with (
        offered(folder, "gateway-0", lambda: writer_families({REQUESTS: 3}, None)),
        offered(folder, "gateway-1", lambda: writer_families({REQUESTS: 4}, None)),
        offered(folder, "old", lambda: [single("tidegate_log_dropped_messages_total", "nonsense", "", 1)]),
    ):
        hanging = await asyncio.start_unix_server(stuck, str(folder / "mirror.sock"))
        monkeypatch.setattr(vitals, "ASK_SECONDS", 1.0)
        found = await scrape(plane)
        hanging.close()
    dropped = {key[1:]: value for key, value in found.items() if key[0] == "tidegate_log_dropped_messages_total"}
    assert dropped == {("control", DEMAND): 2, ("gateway-0", REQUESTS): 3, ("gateway-1", REQUESTS): 4}
    assert (found["tidegate_process_up", "mirror"], found["tidegate_process_up", "old"]) == (0, 0)


def documented() -> set[str]:
    """Names in the tables of docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `tidegate_")]
    return {name for row in rows for name in re.findall(r"`(tidegate_\w+)", row)}


def names_in(text: str) -> set[str]:
    return {
        name.removesuffix("_created")
        for line in text.splitlines()
        if line.startswith("# TYPE ")
        for name in [line.split(" ")[2]]
        if not name.endswith("_created")
    }


async def test_the_page_has_every_name_there_is_and_no_other(plane: Running, tmp_path: Path) -> None:
    async with autoscaler(plane):
        text = (await plane.call("GET", "/metrics")).text
    courier = Courier([f"unix:{tmp_path / 's'}"], lambda _: None)
    link = Link(shipped={DEMAND: 1}, folded={DEMAND: 1}, restarts={"x": 1})  # type: ignore[arg-type]  # as they come
    gauges = dict.fromkeys(
        [("spool_rows", ""), ("spool_bytes", ""), ("spool_oldest_seconds", ""), ("log_set_aside_messages", "")], 0.0
    )
    health = health_of(link, {**gauges, ("log_lag_messages", DEMAND): 1})
    counted = [*writer_families({}, courier), *gateway_figures.families(Counters(), Refusals(), [])]
    counted += guard.families(0, 0.0, 0, 0, 0, 0)
    counted += Exporter("http://127.0.0.1:4318", {}, version="1").families()
    counted += kubernetes_figures.families({}, {})
    kafka = metrics.render([], Fleet(lambda: None), 0, health, {"gateway-0": text_of(counted)})
    assert names_in(text) | names_in(kafka.decode()) == documented()
