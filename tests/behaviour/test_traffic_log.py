"""The traffic log over a real control plane and a real log: REST, the command, and the file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.cli.main import main
from router.contract import codec
from router.contract.events import REQUESTS, CallProfile, Flag, Outcome, RequestRecord
from router.control.traffic_log import request_id
from tests.support.contract_samples import COUNTS, pack_requests
from tests.support.control_plane import Running, running, until

AZURE = [
    "Method", "Path", "EndpointName", "DeploymentName", "Protocol", "ResponseCode", "ResponseCodeReason", "ModelStatusCode",
    "ModelStatusReason", "RequestPayloadSize", "ResponsePayloadSize", "UserAgent", "XRequestId", "XMSClientRequestId",
    "TotalDurationMs", "RequestDurationMs", "ResponseDurationMs", "RequestThrottlingDelayMs",
    "ResponseThrottlingDelayMs", "AuthType",
]  # fmt: skip
PATH = "/v1/endpoints/shop/traffic-log"
CALLER = CallProfile("POST", "/score", "HTTP/1.1", "Key", "tides/1.0 \x9b31m", "nr-7")


def record(sequence: int, deployment: str = "blue", age_seconds: int = 0, **more: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "status": 200, "model_status": 200, "outcome": Outcome.OK, "flags": Flag.NONE, "request_bytes": 10,
        "response_bytes": 20, "wait_us": 1500, "first_byte_us": 2500, "total_us": 3500, "replica": "r1",
        "profile": CALLER,
    }  # fmt: skip
    return RequestRecord(sequence, time.time_ns() - age_seconds * 10**9, deployment, **(values | more))


def message(*records: RequestRecord) -> bytes:
    names = {"", *(one.deployment for one in records), *(one.replica for one in records)}
    names |= {codec.encode_profile(one.profile) for one in records} | {one.refusal for one in records}
    return pack_requests(list(records), sorted(names))


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path / "data") as one:
        await one.endpoint("shop", "blue", "green")
        yield one


async def rows(plane: Running, query: str = "") -> list[dict[str, Any]]:
    await plane.log.flush()
    answer = await plane.call("GET", PATH + query)
    assert answer.status == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_request_is_a_line_in_azures_columns(plane: Running) -> None:
    refused = record(
        8, status=429, model_status=0, outcome=Outcome.QUEUE_TIMEOUT, refusal="QueueTimeout", first_byte_us=0,
        request_us=-1, replica="", flags=Flag.WAITED | Flag.FROM_ZERO,
    )  # fmt: skip
    later = record(10, flags=Flag.HTTP2)
    failed = record(9, status=424, model_status=500, outcome=Outcome.MODEL_ERROR, request_us=700)
    plane.log.append(REQUESTS, "shop", message(record(7), refused, failed, later))
    plane.log.append(REQUESTS, "other", message(record(1)))
    plane.log.append(REQUESTS, "shop", codec.encode_counts(COUNTS[1:2]))
    plane.log.append(REQUESTS, "shop", b"\xff")
    served, waited, model, streamed, folded, broken = await rows(plane)
    assert list(served)[: len(AZURE) + 1] == ["TimeGenerated", *AZURE]
    writer = plane.log.writer
    assert served["XRequestId"] == f"{writer[:8]}-{writer[8:12]}-{writer[12:16]}-{writer[16:20]}-{7:012x}"
    assert {name: served[name] for name in AZURE if name not in ("XRequestId", "UserAgent")} == {
        "Method": "POST", "Path": "/score", "EndpointName": "shop", "DeploymentName": "blue", "Protocol": "HTTP/1.1",
        "ResponseCode": 200, "ResponseCodeReason": "OK", "ModelStatusCode": 200, "ModelStatusReason": "OK",
        "RequestPayloadSize": 10, "ResponsePayloadSize": 20, "XMSClientRequestId": "nr-7", "TotalDurationMs": 3.5,
        "RequestDurationMs": 0.0, "ResponseDurationMs": 2.5, "RequestThrottlingDelayMs": 0,
        "ResponseThrottlingDelayMs": 0, "AuthType": "Key",
    }  # fmt: skip
    assert (waited["ResponseCode"], waited["ResponseCodeReason"], waited["ModelStatusCode"]) == (
        429,
        "QueueTimeout",
        None,
    )
    assert (waited["RequestDurationMs"], waited["ResponseDurationMs"], waited["QueueDurationMs"]) == (None, None, 1.5)
    assert (waited["Outcome"], waited["Flags"]) == ("queue_timeout", ["waited", "from_zero"])
    assert (model["ResponseCodeReason"], model["ModelStatusReason"]) == ("Failed Dependency", "Internal Server Error")
    assert model["RequestDurationMs"] == 0.7
    assert (streamed["Protocol"], streamed["Flags"]) == ("HTTP/2", ["http2"])
    assert (folded["FoldedRequests"], folded["DeploymentName"]) == (1000, "blue")
    assert "schema" in broken["Unreadable"]


async def test_deployment_time_and_number_narrow_it(plane: Running) -> None:
    for number in range(30):
        name = "green" if number % 3 else "blue"
        plane.log.append(REQUESTS, "shop", message(record(number, name, age_seconds=60 * (30 - number))))
        plane.log.append(REQUESTS, "other", message(record(number)))

    async def numbers(query: str) -> list[int]:
        return [int(row["XRequestId"][-12:], 16) for row in await rows(plane, query)]

    assert await numbers("?tail=3") == [27, 28, 29]
    assert await numbers("?deployment=Blue&tail=3") == [21, 24, 27]
    assert await numbers("?since=330s") == [25, 26, 27, 28, 29]
    assert await numbers("?since=11m&deployment=blue") == [21, 24, 27]
    assert await numbers("?since=11m&tail=1") == [29]
    for query, field in (("since=soon", "since"), ("since=2026-01-01T00:00:00", "since"), ("tail=-1", "tail")):
        answer = await plane.call("GET", f"{PATH}?{query}")
        assert (answer.status, answer.json["error"]["details"][0]["field"]) == (400, field)
    assert (await plane.call("GET", "/v1/endpoints/none/traffic-log")).status == 404


async def test_a_follower_gets_each_request_as_it_is_recorded(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with running(tmp_path) as plane:
            await plane.endpoint("shop", "blue")
            response = await session.get(plane.call.base + PATH + "?follow=true&deployment=blue")
            for number in range(3):
                plane.log.append(REQUESTS, "other", message(record(100)))
                plane.log.append(REQUESTS, "shop", message(record(50, "green"), record(number)))
                line = json.loads(await asyncio.wait_for(response.content.readline(), 30))
                assert line["XRequestId"] == request_id(plane.log.writer, number)
        assert await response.content.read() == b""


async def test_the_command_prints_lines_or_columns(
    plane: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_URL", plane.call.base)
    plane.log.append(REQUESTS, "shop", message(record(7), record(8, status=0, outcome=Outcome.CLIENT_ABORTED)))
    await plane.log.flush()
    command = ["online-endpoint", "traffic-log", "-n", "shop", "--since", "1h", "--deployment-name", "blue"]
    assert await asyncio.to_thread(main, command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["XRequestId"][-1] for one in lines] == ["7", "8"]
    assert await asyncio.to_thread(main, [*command, "-o", "table"]) == 0
    title, rule, first, second = capsys.readouterr().out.splitlines()
    assert title.split()[:3] == ["TimeGenerated", "DeploymentName", "Method"]
    assert set(rule) == {"-", " "}
    assert "POST" in first
    assert "tides/1.0 ?31m" in first, "what callers write does not reach the terminal's controls"
    assert "\x9b" not in first + second
    assert await asyncio.to_thread(main, [*command, "-o", "yaml"]) != 0
    assert "json, table or none" in capsys.readouterr().err


async def test_the_access_log_is_a_file_with_every_request_that_survives_being_moved_away(tmp_path: Path) -> None:
    file, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    async with running(tmp_path / "data", access_log=str(file)) as plane:

        async def written() -> bool:
            plane.log.append(REQUESTS, "shop", message(record(7)))
            return bool(file.exists() and file.read_bytes())

        await until("the first line", written)
        file.rename(moved)
        await until("the file anew", written)
        for name in ("a", "b"):
            plane.log.append(REQUESTS, name, message(record(9)))
        await plane.log.flush()
    lines = [json.loads(line) for line in moved.read_bytes().splitlines() + file.read_bytes().splitlines()]
    assert {one["EndpointName"] for one in lines[:-2]} == {"shop"}
    assert [one["EndpointName"] for one in lines[-2:]] == ["a", "b"], "the last words are written before the end"


async def test_an_access_log_that_cannot_be_written_is_said_at_once_or_counted_later(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="--access-log"):
        async with running(tmp_path / "one", access_log=str(tmp_path / "no" / "such" / "folder")):
            pass
    async with running(tmp_path / "two", access_log="/dev/full") as plane:

        async def counted() -> bool:
            plane.log.append(REQUESTS, "shop", message(record(7)))
            text = (await plane.call("GET", "/metrics")).text
            return any(
                line.startswith("tidegate_access_log_lost_lines_total") and not line.endswith(" 0")
                for line in text.splitlines()
            )

        await until("lost lines", counted)
