"""The bench of Kubernetes as compute, as far as it goes without a cluster."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from loadtests.kubernetes.__main__ import main
from loadtests.kubernetes.bench.schedule import Schedule, milliseconds
from loadtests.kubernetes.bench.sizes import Sizes
from loadtests.kubernetes.bench.watching import PodWatch
from loadtests.kubernetes.bench.writing import first_writes

USER = "system:serviceaccount:fleet:autoscaler"


def test_every_deployment_of_the_schedule_goes_up_once_and_down_once() -> None:
    sizes = Sizes(deployments=100, pods=300, decisions_per_second=20, seconds=2, rest_seconds=3)
    names = [f"e{number}" for number in range(sizes.deployments)]
    schedule = Schedule.of(names, sizes)
    changes = list(schedule)
    up, down = changes[:40], changes[40:]
    assert [one.endpoint for one in up] == [one.endpoint for one in down] == names[:40]
    assert {one.count for one in up} == {4}
    assert {one.count for one in down} == {3}
    assert up[-1].at_seconds == pytest.approx(39 / 20)
    assert down[0].at_seconds == pytest.approx(2 + 3)
    assert schedule.seconds == pytest.approx(2 * (2 + 3))


def test_a_small_fleet_changes_each_of_its_deployments_once() -> None:
    assert Sizes(deployments=7, pods=7).changed == 7
    assert Sizes().changed == 600
    assert Sizes().nodes * 500 >= 5000 + 600


def event(kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    labels = {"tidegate.dev/endpoint": name.partition("-")[0]}
    return {"type": kind, "object": {"metadata": {"name": name, "labels": labels, "resourceVersion": "7", **metadata}}}


def test_a_pod_counts_from_its_first_event_until_it_ends() -> None:
    seen = PodWatch()
    seen.take(event("ADDED", "e1-a"))
    seen.take(event("MODIFIED", "e1-a"))
    seen.take(event("ADDED", "e1-b"))
    assert seen.alive == {"e1": 2}
    seen.take(event("MODIFIED", "e1-a", deletionTimestamp="2026-01-01T00:00:00Z"))
    seen.take(event("DELETED", "e1-a", deletionTimestamp="2026-01-01T00:00:00Z"))
    assert seen.alive == {"e1": 1}
    assert seen.deleted == 1
    seen.take({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
    assert seen.version == "9"
    assert seen.since(0)["e1"] == min(at_ns for _, at_ns in seen.created.values())


async def test_whoever_waits_for_news_hears_that_the_watch_has_ended() -> None:
    seen = PodWatch()
    seen.end("the server is away")
    with pytest.raises(RuntimeError, match="the server is away"):
        await seen.news()


def test_first_writes_are_the_users_own_after_the_moment(tmp_path: Path) -> None:
    def line(name: str, time: str, user: str = USER, verb: str = "patch", resource: str = "deployments") -> str:
        about = {"resource": resource, "name": name}
        return json.dumps(
            {"verb": verb, "user": {"username": user}, "objectRef": about, "requestReceivedTimestamp": time}
        )

    log = tmp_path / "audit.log"
    log.write_text(
        "\n".join(
            [
                line("e1-blue-0", "1970-01-01T00:00:01.000000Z"),
                line("e1-blue-0", "1970-01-01T00:00:02.000000Z", user="somebody"),
                line("e1-blue-0", "1970-01-01T00:00:03.000000Z", resource="pods"),
                line("e1-blue-0", "1970-01-01T00:00:04.500000Z"),
                line("e1-blue-0", "1970-01-01T00:00:05.000000Z"),
                line("e2-blue-0", "1970-01-01T00:00:05.000000Z", verb="get"),
                "",
            ]
        )
    )
    since = {"e1": 1_500_000_000, "e2": 0}
    found = first_writes(log, USER, "deployments", since)
    assert found == {"e1": 4_500_000_000}
    assert milliseconds(since, found, ["e1", "e2"]) == (3000.0, 3000.0)
    assert math.isnan(milliseconds(since, {}, ["e1"])[0])


def test_sizes_are_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for flag in ("--row", "--deployments", "--pods", "--repetitions", "--decisions-per-second", "--quick", "--json"):
        assert flag in said
