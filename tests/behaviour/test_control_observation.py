"""Status, metrics, events, logs and assets over a real log."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from router.contract import codec
from router.contract.events import (
    BUCKETS,
    DECISIONS,
    DEMAND,
    REQUESTS,
    SHADOWS,
    Decision,
    DemandReport,
    DemandRow,
    DeploymentReplicas,
    Phase,
    Replica,
    ReplicaState,
    ShadowComparison,
    bucket_of,
)
from tests.support.contract_samples import COUNTS, DETAILED, DETAILED_NAMES, REQUEST_NAMES, pack_requests
from tests.support.contract_samples import REQUESTS as RECORDS
from tests.support.control_plane import DEPLOYMENT, Running, ready, running, tar_of, until


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as one:
        yield one


def latencies(**counts: int) -> tuple[int, ...]:
    """Histogram: `ms20=3` is three answers after 20 ms."""
    histogram = [0] * BUCKETS
    for name, count in counts.items():
        histogram[bucket_of(int(name[2:]) / 1000)] += count
    return tuple(histogram)


def demand(endpoint: str, *rows: DemandRow) -> bytes:
    now = time.time_ns()
    return codec.encode_demand(DemandReport(endpoint, now - 100_000_000, now, 1, 1, rows=rows))


async def test_status_folds_replicas_demand_and_shadows(plane: Running) -> None:
    revision = await plane.endpoint("shop", "blue", "green", traffic={"blue": 100})
    await plane.call("PUT", "/v1/endpoints/shop", {"traffic": {"blue": 100}, "mirror_traffic": {"green": 25}})
    unknown = (await plane.call("GET", "/v1/status")).json["endpoints"][0]
    assert (unknown["requests_per_second"], unknown["deployments"][0]["p50_ms"]) == (None, None)
    replicas = (
        Replica("a", "h", 1, ReplicaState.READY, "t"),
        Replica("b", "h", 2, ReplicaState.DRAINING, "t"),
        Replica("c", "h", 3, ReplicaState.STARTING, "t"),
    )
    scaling = DeploymentReplicas(2, revision + 1, Phase.SCALING, replicas=replicas)
    await plane.autoscaler.say("shop", {"blue": scaling, "green": ready(revision + 1)})
    row = DemandRow(
        "blue",
        arrivals=40,
        completions=30,
        errors=3,
        rejected=2,
        in_flight=5,
        queued=2,
        latency=latencies(ms20=29, ms900=1),
        wait=latencies(ms0=20, ms500=5),
    )
    plane.log.append(DEMAND, "shop", demand("shop", row, DemandRow("green", shadow=True, arrivals=9)))
    for equal, dropped, count in ((True, "", 1), (False, "", 1), (None, "budget", 7)):
        shadow = ShadowComparison("shop", "r", 1, "blue", "green", 10, equal=equal, dropped=dropped, count=count)
        plane.log.append(SHADOWS, "shop", codec.encode_shadow(shadow))
    plane.log.append(DECISIONS, "shop", codec.encode_decision(Decision("shop", "blue", 1, 1, 2, "load", 1)))

    async def folded() -> Any:
        found = (await plane.call("GET", "/v1/status")).json["endpoints"][0]
        return found if found["in_flight"] and found["deployments"][1]["shadows"]["dropped"] else None

    status = await until("the fold", folded)
    blue, green = status["deployments"]
    assert blue["replicas"] == {"observed": 3, "ready": 1, "desired": 2}
    assert (blue["phase"], blue["weight"], green["weight"], green["mirror_percent"]) == ("scaling", 100, 0, 25)
    assert (status["in_flight"], status["queued"]) == (5, 2)
    assert 4 <= status["requests_per_second"] <= 40
    assert 0.5 <= status["errors_per_second"] <= 5
    assert 20 <= blue["p50_ms"] <= 25 <= 900 <= blue["p99_ms"] <= 1125
    assert green["shadows"] == {"compared": 2, "equal": 1, "dropped": 7}
    assert green["requests_per_second"] is None, "mirrored load is no live demand"
    text = (await plane.call("GET", "/metrics")).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["tidegate_requests_total", "blue", "shop"] == 40
    assert samples["tidegate_replicas", "blue", "observed", "shop"] == 3
    assert samples["tidegate_request_seconds_count", "blue", "shop"] == 30
    assert samples["tidegate_queue_wait_seconds_count", "blue", "shop"] == 25
    assert samples["tidegate_queue_wait_seconds_sum", "blue", "shop"] == pytest.approx(5 * 0.5, rel=0.13)
    assert samples["tidegate_shadows_total", "dropped", "green", "shop"] == 7
    assert samples["tidegate_scaling_decisions_total", "blue", "shop"] == 1
    assert samples["tidegate_deployment_weight_percent", "blue", "shop"] == 100


def samples_of(text: str) -> dict[tuple[str, ...], float]:
    """(name, *label values in the order of their labels' names) → value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_finished_requests_are_counted_by_how_they_ended_whether_folded_or_not(plane: Running) -> None:
    await plane.endpoint("shop", "blue")
    plane.log.append(REQUESTS, "shop", pack_requests(RECORDS, REQUEST_NAMES))
    plane.log.append(REQUESTS, "shop", codec.encode_counts(COUNTS[:2]))
    plane.log.append(REQUESTS, "ghost", pack_requests(RECORDS, REQUEST_NAMES))
    plane.log.append(REQUESTS, "shop", b"\xff nonsense")

    async def counted() -> Any:
        samples = samples_of((await plane.call("GET", "/metrics")).text)
        return samples if samples["tidegate_log_skipped_messages_total",] else None

    samples = await until("the fold", counted)
    by_outcome = {
        key[1:]: value for key, value in samples.items() if key[0] == "tidegate_requests_by_outcome_total" and value
    }
    assert by_outcome == {
        ("", "shop", "refused"): 1,
        ("", "shop", "other"): 3,
        ("blue", "shop", "model_error"): 11,
        ("blue", "shop", "other"): 5,
        ("blue", "shop", "ok"): 985,
    }
    assert samples["tidegate_requests_by_status_total", "blue", "shop", "4xx"] == 1
    assert samples["tidegate_requests_by_status_total", "blue", "shop", "other"] == 1000
    assert samples["tidegate_request_bytes_total", "blue", "shop"] == 1024 + 1_024_000
    assert samples["tidegate_response_bytes_total", "blue", "shop"] == 2048 + 2_048_000
    assert samples["tidegate_folded_requests_total", "blue", "shop"] == 1000
    for name in ("gaps", "late_messages", "duplicates"):
        for topic in (DEMAND, REQUESTS, SHADOWS, DECISIONS):
            assert samples[f"tidegate_log_{name}_total", topic] == 0
    assert "ghost" not in {part for key in samples for part in key}


async def test_sizes_first_bytes_and_refusals_of_one_deployment_and_they_end_with_the_endpoint(plane: Running) -> None:
    await plane.endpoint("shop", "blue")
    await plane.endpoint("bank", "blue")
    for endpoint in ("shop", "bank"):
        plane.log.append(REQUESTS, endpoint, pack_requests(DETAILED, DETAILED_NAMES))

    async def scraped() -> Any:
        samples = samples_of((await plane.call("GET", "/metrics")).text)
        return samples if ("tidegate_refused_requests_total", "Unauthorized", "", "bank") in samples else None

    samples = await until("the records", scraped)
    blue, none = ("blue", "shop"), ("", "shop")
    assert samples["tidegate_first_byte_seconds_bucket", "blue", "shop", "0.0025"] == 2
    assert samples["tidegate_first_byte_seconds_bucket", "blue", "shop", "0.001"] == 0
    assert samples["tidegate_first_byte_seconds_sum", *blue] == pytest.approx(0.0024)
    assert samples["tidegate_request_size_bytes_bucket", "blue", "shop", "1024"] == 2
    assert samples["tidegate_response_size_bytes_sum", *blue] == 4096
    assert samples["tidegate_first_byte_seconds_count", *none] == 0
    assert samples["tidegate_refused_requests_total", "QueueTimeout", *none] == 1
    answer = await plane.call("DELETE", "/v1/endpoints/bank")
    await plane.autoscaler.say("bank", {})
    await plane.call.ended(answer)
    left = samples_of((await plane.call("GET", "/metrics")).text)
    assert not [key for key in left if "bank" in key]
    assert left["tidegate_response_size_bytes_sum", *blue] == 4096


async def test_refusals_of_an_endpoint_without_deployments_only_grow(plane: Running) -> None:
    await plane.endpoint("shop")
    series = ("tidegate_refused_requests_total", "Unauthorized", "", "shop")
    for count in (1, 2):
        plane.log.append(REQUESTS, "shop", pack_requests(DETAILED[2:3], DETAILED_NAMES))

        async def counted(count: int = count) -> bool:
            samples = samples_of((await plane.call("GET", "/metrics")).text)
            return samples.get(series) == count

        await until("the refusal", counted)


async def test_nothing_the_log_says_makes_series_for_what_does_not_exist(plane: Running) -> None:
    await plane.endpoint("shop", "blue")
    for number in range(50):
        plane.log.append(DEMAND, "x", demand(f"ghost{number}", DemandRow("blue", arrivals=1, in_flight=1)))
    plane.log.append(DEMAND, "shop", b"\xff nonsense")
    plane.log.append(DEMAND, "shop", demand("shop", DemandRow("blue", arrivals=1, in_flight=1)))

    async def folded() -> Any:
        return (await plane.call("GET", "/v1/status")).json["endpoints"][0]["in_flight"]

    await until("the fold", folded)
    text = (await plane.call("GET", "/metrics")).text
    assert "ghost" not in text
    assert "tidegate_log_skipped_messages_total 1.0" in text


async def test_events_are_one_json_line_each_and_the_tail_is_the_newest(plane: Running) -> None:
    await plane.endpoint("shop")
    for number in range(30):
        decision = Decision("shop", "blue", number, number, number + 1, "load", 1, {"rate": float("nan")})
        plane.log.append(DECISIONS, "shop", codec.encode_decision(decision))
        plane.log.append(DEMAND, "shop", demand("shop"))
    records = b"".join(
        codec.REQUEST_RECORD.pack(number, 1, 200, 200, 1, 1 | 8, 0, 10, 20, 1, 2, 3, 1, 2) for number in range(3)
    )
    plane.log.append(REQUESTS, "shop", codec.encode_requests(("", "blue", "r1"), records))
    plane.log.append(DECISIONS, "shop", b"{}")
    await plane.log.flush()
    answer = await plane.call("GET", "/v1/events/decisions?tail=4")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["event"].get("previous") for line in lines] == [27, 28, 29, None]
    assert lines[0]["event"]["inputs"] == {"rate": None}
    assert "unreadable" in lines[3]["event"]
    assert set(lines[0]) == {"topic", "partition", "offset", "key", "writer", "sequence", "at", "event"}
    requests = [json.loads(line) for line in (await plane.call("GET", "/v1/events/requests")).text.splitlines()]
    assert [line["event"]["sequence"] for line in requests] == [0, 1, 2]
    assert (requests[0]["event"]["outcome"], requests[0]["event"]["flags"]) == (
        "model_error",
        ["mirrored", "from_zero"],
    )
    assert (await plane.call("GET", "/v1/events/decisions?tail=0")).text == ""


async def test_a_follower_gets_each_event_as_it_comes_and_ends_with_the_server(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with running(tmp_path) as plane:
            response = await session.get(plane.call.base + "/v1/events/decisions?follow=true&tail=1")
            for number in range(3):
                decision = Decision("shop", "blue", 1, number, number + 1, "load", 1)
                plane.log.append(DECISIONS, "shop", codec.encode_decision(decision))
                line = json.loads(await asyncio.wait_for(response.content.readline(), 30))
                assert line["event"]["previous"] == number
        assert await response.content.read() == b""


async def test_followers_are_bounded_and_leave_when_their_caller_does(
    plane: Running, caplog: pytest.LogCaptureFixture
) -> None:
    address = plane.call.base + "/v1/events/decisions?follow=true"
    open_streams = [await plane.call.session.get(address) for _ in range(32)]
    refused = await plane.call("GET", "/v1/events/decisions?follow=true")
    assert refused.status == 503
    for response in open_streams:
        response.close()

    async def room() -> bool:
        return (await plane.call("GET", "/v1/events/decisions")).status == 200

    await until("room for another stream", room)
    assert "Traceback" not in caplog.text


async def test_logs_come_from_the_autoscaler_or_the_answer_says_that_it_is_not_there(plane: Running) -> None:
    await plane.endpoint("shop", "blue")
    path = "/v1/endpoints/shop/deployments/Blue/logs"
    absent = await plane.call("POST", path, {"tail": 5})
    assert (absent.status, absent.json["error"]["code"]) == (503, "ServiceUnavailable")
    assert "autoscaler" in absent.json["error"]["message"]
    assert (await plane.call("POST", path, {"tail": 0})).json["error"]["details"][0]["field"] == "tail"
    assert (await plane.call("POST", "/v1/endpoints/shop/deployments/none/logs", {})).status == 404

    async def logs(request: web.Request) -> web.Response:
        if request.query["lines"] == "7":
            return web.Response(text="broken", status=500)
        return web.json_response({"content": "r1: " + "/".join(request.query.values())})

    app = web.Application()
    app.router.add_get("/logs", logs)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(plane.settings.data.autoscaler_socket)).start()
        assert (await plane.call("POST", path, {"tail": 5})).json == {"content": "r1: shop/blue/5"}
        assert (await plane.call("POST", path)).json == {"content": "r1: shop/blue/50"}
        assert (await plane.call("POST", path, {"tail": 7})).status == 503
    finally:
        await runner.cleanup()


async def upload(plane: Running, tar: bytes, sha256: str | None = None) -> int:
    name = sha256 or hashlib.sha256(tar).hexdigest()
    answer = await plane.call("PUT", f"/v1/assets/{name}", data=io.BytesIO(tar))
    return answer.status


def left_behind(plane: Running) -> list[str]:
    root = plane.settings.data.assets
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name != ".incoming")


async def test_an_asset_is_stored_once_and_documents_may_name_it(plane: Running) -> None:
    await plane.endpoint("shop")
    tar = tar_of({"score.py": b"def init(): ...", "data/weights.bin": b"\0" * 3_000_000})
    sha256 = hashlib.sha256(tar).hexdigest()
    assert (await plane.call("HEAD", f"/v1/assets/{sha256}")).status == 404
    assert await upload(plane, tar) == 201
    assert (await plane.call("HEAD", f"/v1/assets/{sha256}")).status == 200
    assert await upload(plane, tar) == 200
    folder = plane.settings.data.assets / sha256
    assert (folder / "data" / "weights.bin").stat().st_size == 3_000_000
    code = {"code": f"asset:{sha256}", "scoring_script": "score.py"}
    environment = {"image": "x/y:1", "conda_file": f"asset:{sha256}/data/conda.yml"}
    path = "/v1/endpoints/shop/deployments/blue"
    document = DEPLOYMENT | {"code_configuration": code}
    wrong = await plane.call("PUT", path, document | {"environment": environment})
    assert [one["field"] for one in wrong.json["error"]["details"]] == ["environment.conda_file"]
    wrong = await plane.call("PUT", path, document | {"code_configuration": code | {"scoring_script": "main.py"}})
    assert [one["field"] for one in wrong.json["error"]["details"]] == ["code_configuration.scoring_script"]
    assert (await plane.call("PUT", path, document | {"model": {"path": f"asset:{sha256}/data"}})).status == 201


async def test_concurrent_uploads_of_one_asset_both_succeed(plane: Running) -> None:
    tar = tar_of({f"f{number}": b"x" * 1000 for number in range(200)})
    statuses = await asyncio.gather(*(upload(plane, tar) for _ in range(4)))
    assert set(statuses) <= {200, 201}
    assert 201 in statuses
    assert len(left_behind(plane)) == 201


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sparse() -> bytes:
    """One byte that claims to be a terabyte."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 1
        info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
        tar.addfile(info, io.BytesIO(b"x"))
    return sink.getvalue()


HOSTILE: dict[str, bytes] = {
    "sparse file": sparse(),
    "link inside": tar_of({"a": b"x", "link": special("link", tarfile.SYMTYPE, "a")}),
    "parent": tar_of({"../out": b"x"}),
    "deep parent": tar_of({"a/../../out": b"x"}),
    "absolute": tar_of({"/tmp/out": b"x"}),
    "symbolic link": tar_of({"link": special("link", tarfile.SYMTYPE, "/etc/passwd")}),
    "link then file through it": tar_of({"link": special("link", tarfile.SYMTYPE, "/tmp"), "link/out": b"x"}),
    "hard link": tar_of({"link": special("link", tarfile.LNKTYPE, "/etc/passwd")}),
    "device": tar_of({"null": special("null", tarfile.CHRTYPE)}),
    "pipe": tar_of({"pipe": special("pipe", tarfile.FIFOTYPE)}),
    "file as folder": tar_of({"a": b"x", "a/b": b"y"}),
    "backslash": tar_of({"..\\out": b"x"}),
    "too deep": tar_of({"/".join("d" * 70): b"x"}),
    "no tar": b"hello" * 1000,
    "cut off": tar_of({"a": b"x" * 5000})[:3000],
    "empty": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_upload_leaves_nothing_behind(plane: Running, what: str) -> None:
    answer = await plane.call(
        "PUT", f"/v1/assets/{hashlib.sha256(HOSTILE[what]).hexdigest()}", data=io.BytesIO(HOSTILE[what])
    )
    assert (answer.status, answer.json["error"]["code"]) == (400, "BadArgument"), answer.text
    assert left_behind(plane) == []


async def test_compressed_bombs_twins_wrong_hashes_and_wrong_names_are_refused(plane: Running) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 50 << 20
        tar.addfile(info, io.BytesIO(b"\0" * info.size))
    assert await upload(plane, sink.getvalue()) == 400
    one = tar_of({"a": b"x"})
    twins = one[:1024] + one
    assert await upload(plane, twins) == 400
    assert await upload(plane, one, "0" * 64) == 400
    assert await upload(plane, one, "..%2f" + "0" * 59) == 400
    assert left_behind(plane) == []


async def test_an_upload_that_breaks_off_leaves_nothing_behind(
    plane: Running, caplog: pytest.LogCaptureFixture
) -> None:
    tar = tar_of({"a": b"x" * (4 << 20)})

    async def half() -> AsyncIterator[bytes]:
        yield tar[: 2 << 20]
        raise ConnectionError("gone")

    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await plane.call("PUT", f"/v1/assets/{hashlib.sha256(tar).hexdigest()}", data=half())

    async def clean() -> bool:
        return left_behind(plane) == []

    await until("a clean folder", clean)
    assert "Traceback" not in caplog.text
