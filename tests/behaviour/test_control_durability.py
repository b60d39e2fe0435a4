"""No acknowledged revision is ever lost, none is half there, and whatever was under way is taken up again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from loadtests.waiting import free_port
from router.contract import codec
from router.contract.errors import Unavailable
from router.contract.events import SPECS, EndpointRevision
from router.runtime.log.embedded import EmbeddedLog
from tests.support.control_plane import DEPLOYMENT, Caller, Running, ready, running, until


async def published(folder: Path) -> dict[str, EndpointRevision]:
    """Endpoint → the newest revision in the log."""
    log = EmbeddedLog(folder / "log")
    newest: dict[str, EndpointRevision] = {}
    try:
        reader = await log.reader((SPECS,))
        while not await reader.caught_up():
            for message in await reader.next(5):
                event = codec.decode_specs(message.value)
                assert event.revision >= newest.get(event.endpoint, event).revision, "published out of order"
                newest[event.endpoint] = event
    finally:
        await log.close()
    return newest


@contextlib.asynccontextmanager
async def control_process(folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A control plane as its own process, ready; killed hard at the end."""
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router.app", "control", f"--data={folder}", f"--port={port}", f"--ready-fd={write}",
        pass_fds=(write,), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    try:
        assert await asyncio.to_thread(os.read, read, 1) == b"1", "the control plane did not get ready"
        yield process
    finally:
        os.close(read)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def write_until_dead(call: Caller, round_number: int, acknowledged: dict[int, str]) -> None:
    """PUT after PUT, each with its own mark, until the process is gone."""
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        for number in range(10_000):
            mark = f"{round_number}-{number}"
            answer = await call("PUT", "/v1/endpoints/shop", {"tags": {"mark": mark}})
            assert answer.status in (200, 201), answer.text
            acknowledged[answer.revision] = mark


async def test_kill_9_loses_no_acknowledged_revision_and_leaves_no_hole(tmp_path: Path) -> None:
    chance, port = random.Random(7), free_port()
    acknowledged: dict[int, str] = {}
    async with aiohttp.ClientSession() as session:
        call = Caller(session, f"http://127.0.0.1:{port}")
        for round_number in range(6):
            before = len(acknowledged)
            async with control_process(tmp_path, port) as process:
                writing = asyncio.create_task(write_until_dead(call, round_number, acknowledged))
                wanted = before + chance.randrange(3, 25)

                async def enough(wanted: int = wanted) -> bool:
                    return len(acknowledged) >= wanted

                await until("acknowledged writes", enough)
                await asyncio.sleep(chance.random() * 0.02)
                process.kill()
                await asyncio.wait_for(writing, 60)
            async with control_process(tmp_path, port):
                listed = (await call("GET", "/v1/endpoints/shop/revisions")).json["value"]
                numbers = [one["revision"] for one in listed]
                newest = numbers[0]
                assert numbers == list(range(newest, max(0, newest - 100), -1))
                assert newest >= max(acknowledged)
                path = "/v1/endpoints/shop/revisions/"
                marks = {number: (await call("GET", f"{path}{number}")).json["document"]["tags"] for number in numbers}
                for number in acknowledged.keys() & marks.keys():
                    assert marks[number] == {"mark": acknowledged[number]}
            event = (await published(tmp_path))["shop"]
            assert event.revision == newest
            assert event.document["tags"] == marks[newest]
    assert len(acknowledged) > 18


async def test_operations_and_a_pending_all_traffic_go_on_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as plane:
        await plane.endpoint("shop", "blue", traffic={"blue": 100})
        created = await plane.call("PUT", "/v1/endpoints/shop/deployments/green?all_traffic=true", DEPLOYMENT)
    async with running(tmp_path) as plane:
        assert (await plane.call("GET", created.operation)).json["status"] == "InProgress"
        plane.autoscaler.version = 10
        await plane.autoscaler.say("shop", {name: ready(created.revision) for name in ("blue", "green")})
        assert (await plane.call.ended(created))["status"] == "Succeeded"
        assert (await plane.call("GET", "/v1/endpoints/shop")).json["traffic"] == {"blue": 0, "green": 100}
    async with running(tmp_path) as plane:
        assert (await plane.call("GET", created.operation)).json["status"] == "Succeeded"
        assert (await plane.call("GET", "/v1/endpoints/shop/deployments/green")).json[
            "provisioning_state"
        ] == "Succeeded"


async def test_a_new_log_gets_every_newest_revision_again(tmp_path: Path) -> None:
    async with running(tmp_path) as plane:
        newest = {name: await plane.endpoint(name, "blue", traffic={"blue": 100}) for name in ("shop", "news")}
        await plane.endpoint("gone")
        await plane.call("DELETE", "/v1/endpoints/gone")
    shutil.rmtree(tmp_path / "log")
    async with running(tmp_path) as plane:
        events = await until("publication", lambda: all_published(plane, newest))
        assert events["shop"].deployments["blue"]["endpoint_name"] == "shop"
        assert len(events["shop"].key_hashes) == 2
        assert events["gone"].deleted


async def all_published(plane: Running, wanted: dict[str, int]) -> dict[str, EndpointRevision] | None:
    found = await published(plane.settings.data.root)
    there = {name: event.revision for name, event in found.items() if name in wanted}
    return found if there == wanted else None


async def test_a_lost_store_is_rebuilt_from_the_log_and_numbers_go_on(tmp_path: Path) -> None:
    async with running(tmp_path) as plane:
        revision = await plane.endpoint("shop", "blue", traffic={"blue": 100})
        hashes = (await published(tmp_path))["shop"].key_hashes
    for name in ("control.db", "control.db-wal"):
        (tmp_path / name).unlink(missing_ok=True)
    async with running(tmp_path) as plane:
        shown = await plane.call("GET", "/v1/endpoints/shop")
        assert (shown.revision, shown.json["traffic"]) == (revision, {"blue": 100})
        lost = await plane.call("POST", "/v1/endpoints/shop/keys/list")
        assert (lost.status, "regenerate" in lost.text) == (409, True)
        updated = await plane.call("PUT", "/v1/endpoints/shop", {"traffic": {"blue": 100}, "description": "on"})
        assert updated.revision == revision + 1
        assert (await published(tmp_path))["shop"].key_hashes == hashes, "the callers' keys still open the endpoint"
        fresh = await plane.call("POST", "/v1/endpoints/shop/keys/regenerate", {"key_type": "primary"})
        assert fresh.json == (await plane.call("POST", "/v1/endpoints/shop/keys/list")).json


async def test_a_second_control_plane_on_the_same_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.control.store.BUSY_SECONDS", 0.1)
    async with running(tmp_path) as plane:
        with pytest.raises(Unavailable, match="locked"):
            async with running(tmp_path):
                pass
        assert (await plane.call("GET", "/healthz")).status == 200


async def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as plane:
        (tmp_path / "b").mkdir()
        with pytest.raises(Unavailable, match="choose another port"):
            async with running(tmp_path / "b", port=plane.settings.port):
                pass


async def test_an_upload_cut_off_by_a_crash_is_removed_at_the_next_start(tmp_path: Path) -> None:
    rest = tmp_path / "assets" / ".incoming" / "abc"
    rest.mkdir(parents=True)
    (rest / "tar").write_bytes(b"half")
    async with running(tmp_path):
        assert not rest.exists()


class RefusingLog(EmbeddedLog):
    """A log that commits nothing while `refusing`."""

    refusing = False

    async def flush(self) -> None:
        if self.refusing:
            raise Unavailable("the disk is full")
        await super().flush()


async def test_while_the_log_refuses_changes_are_kept_and_published_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.control_plane.EmbeddedLog", RefusingLog)
    monkeypatch.setattr("router.control.plane.PUBLICATION_SECONDS", 0.1)
    async with running(tmp_path) as plane:
        await plane.endpoint("shop")
        RefusingLog.refusing = True
        try:
            kept = await plane.call("PUT", "/v1/endpoints/shop", {"description": "kept"})
            assert (kept.status, kept.json["provisioning_state"]) == (200, "Updating")
            operation = (await plane.call("GET", kept.operation)).json
            assert (operation["status"], "the log" in operation["message"]) == ("InProgress", True)
        finally:
            RefusingLog.refusing = False
        assert (await plane.call.ended(kept))["status"] == "Succeeded"
        assert (await published(tmp_path))["shop"].document["description"] == "kept"
