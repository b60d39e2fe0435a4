"""Replicas as processes: whatever dies, what should run runs once, and nothing else is left."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autoscaler.backends.base import ObservedReplica
from autoscaler.backends.local import LocalBackend
from autoscaler.backends.local.shim import free_port
from router.contract.errors import Conflict, Unavailable
from router.contract.events import Phase, ReplicaState
from router.runtime import processes
from tests.support.backend_rigs import (
    RULES,
    TARGET,
    LocalRig,
    add_asset,
    command_document,
    eventually,
    fetch,
    ids,
    marked,
    plan,
    ready,
    until,
    wish,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def rig(tmp_path: Path, backend_cache: Path) -> AsyncIterator[LocalRig]:
    made = LocalRig(tmp_path / "data", backend_cache)
    yield made
    await made.clean()
    assert marked(tmp_path / "data") == []


async def started(rig: LocalRig, *arguments: str, count: int = 1) -> tuple[LocalBackend, list[ObservedReplica]]:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(command_document(*arguments), count)))
    seen = await until(backend, ready(count))
    return backend, list(seen.replicas)


def shim_of(backend: LocalBackend, one: ObservedReplica) -> int:
    return backend._replicas[one.id].shim_pid


async def test_a_killed_server_is_started_again_on_its_port_by_the_same_shim(rig: LocalRig) -> None:
    backend, (one,) = await started(rig)
    before, shim = int(await fetch(one, "/pid")), shim_of(backend, one)
    os.kill(before, signal.SIGKILL)
    seen = await until(backend, lambda o: ready(1)(o) and o.replicas[0].restarts == 1)
    again = seen.replicas[0]
    assert (again.id, again.port, shim_of(backend, again)) == (one.id, one.port, shim)
    assert int(await fetch(again, "/pid")) != before
    await backend.close(end_replicas=True)


async def test_the_server_dies_with_its_shim_and_a_new_replica_replaces_both(rig: LocalRig) -> None:
    backend, (one,) = await started(rig, "--children")
    server = processes.identity(int(await fetch(one, "/pid")))
    old = set(marked(rig.data.root))
    assert len(old) == 3  # shim, server and its child in a session of its own
    os.kill(shim_of(backend, one), signal.SIGKILL)
    seen = await until(backend, lambda o: ready(1)(o) and one.id not in ids(o))
    assert not processes.alive(server)
    assert old.isdisjoint(marked(rig.data.root))
    assert seen.replicas[0].port > 0
    await backend.close(end_replicas=True)


async def test_many_replicas_start_and_end_side_by_side(rig: LocalRig) -> None:
    backend, many = await started(rig, count=12)
    assert len({one.port for one in many}) == 12
    async with asyncio.timeout(60):
        await backend.close(end_replicas=True)
    assert marked(rig.data.root) == []
    assert len(list((rig.data.replicas / "ended" / "shop" / "blue").iterdir())) == 3


async def test_a_hanging_shim_does_not_hold_up_the_end(rig: LocalRig) -> None:
    backend = rig.backend(dataclasses.replace(RULES, grace_seconds=0.3))
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    os.kill(shim_of(backend, one), signal.SIGSTOP)
    await backend.close(end_replicas=True)
    assert marked(rig.data.root) == []


async def test_a_server_deaf_to_sigterm_and_its_runaway_children_end_too(rig: LocalRig) -> None:
    rules = dataclasses.replace(RULES, grace_seconds=0.3)
    backend = rig.backend(rules)
    await backend.start()
    await backend.apply(plan(wish(command_document("--deaf", "--children"), 1)))
    await until(backend, ready(1))
    await backend.close(end_replicas=True)
    assert marked(rig.data.root) == []


async def test_a_sick_server_is_restarted_by_its_liveness_probe(rig: LocalRig) -> None:
    routes = {side: {"path": f"/health/{side}", "port": 8080} for side in ("liveness_route", "readiness_route")}
    document = command_document(environment={"inference_config": routes})
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    await fetch(one, "/sick")
    await until(backend, lambda o: ready(1)(o) and o.replicas[0].restarts == 1)
    await backend.close(end_replicas=True)


async def test_a_server_that_only_fails_readiness_is_unready_until_it_recovers(rig: LocalRig) -> None:
    document = command_document(
        environment={"inference_config": {"readiness_route": {"path": "/health", "port": 8080}}},
    )
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    await fetch(one, "/sick")
    seen = await until(backend, lambda o: o.replicas[0].state is ReplicaState.UNREADY)
    assert seen.replicas[0].restarts == 0
    assert seen.conditions[TARGET].phase is not Phase.READY
    await fetch(one, "/well")
    await until(backend, ready(1))
    await backend.close(end_replicas=True)


async def test_a_server_that_never_answers_fails_its_readiness_probe(rig: LocalRig) -> None:
    document = {
        "tidegate": {"command": [sys.executable, "-c", "import time; print('thinking', flush=True); time.sleep(3600)"]},
        "readiness_probe": {"initial_delay": 0.3, "period": 0.1, "failure_threshold": 3},
    }
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 1)))
    seen = await until(backend, lambda o: o.conditions[TARGET].phase is Phase.FAILED)
    assert seen.conditions[TARGET].reason == "ReadinessProbeFailed"
    await until(backend, lambda o: bool(o.replicas) and o.replicas[0].restarts >= 1)
    await backend.close(end_replicas=True)


async def test_a_command_that_does_not_exist_says_so(rig: LocalRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish({"tidegate": {"command": ["no-such-server", "{port}"]}}, 1)))
    seen = await until(backend, lambda o: o.conditions[TARGET].phase is Phase.FAILED)
    assert "cannot run no-such-server" in seen.conditions[TARGET].log_tail
    await backend.close(end_replicas=True)


async def test_the_server_gets_its_folders_and_variables_and_none_of_ours(
    rig: LocalRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_SECRET", "ours")
    code = add_asset(rig.data, {"server.txt": "x"})
    document = command_document(
        code_configuration={"code": code},
        model={"path": f"{code}/server.txt"},
        environment_variables={"GREETING": "hello {port}", "PORT": "1"},
    )
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    variables = dict(line.partition("=")[::2] for line in (await fetch(one, "/env")).splitlines())
    folder = str(rig.data.assets / code.removeprefix("asset:"))
    assert variables["AZUREML_MODEL_DIR"] == folder
    assert variables["GREETING"] == "hello {port}"
    assert variables["PORT"] == str(one.port)
    assert "TIDEGATE_SECRET" not in variables
    assert await fetch(one, "/cwd") == folder
    await backend.close(end_replicas=True)


async def test_output_is_rotated_and_read_over_the_files(rig: LocalRig) -> None:
    rules = dataclasses.replace(RULES, log_bytes=20_000, log_files=3)
    backend = rig.backend(rules)
    await backend.start()
    await backend.apply(plan(wish(command_document("--lines", "2000"), 1)))
    (one,) = (await until(backend, ready(1))).replicas
    newest = rig.data.replicas / one.id / "server.log"
    await eventually(lambda: newest.exists() and b" listening\n" in newest.read_bytes(), "all output is written")
    files = sorted((rig.data.replicas / one.id).glob("server.log*"))
    assert [file.name for file in files] == ["server.log", "server.log.1", "server.log.2"]
    assert all(file.stat().st_size < 20_000 + (1 << 17) for file in files)
    lines = (await backend.logs(*TARGET, 200)).splitlines()
    said = [line.split(" ", 2)[2] for line in lines]
    assert said[-1] == "listening"
    assert [line.split()[1] for line in said[:-1]] == [str(n) for n in range(2000 - 199, 2000)]
    await backend.close(end_replicas=True)


async def test_the_logs_of_ended_replicas_stay_readable_and_only_the_newest(rig: LocalRig) -> None:
    backend, (one,) = await started(rig)
    gone = []
    for _ in range(4):
        gone.append(one.id)
        await backend.apply(plan(wish(rig.document, 1, remove=frozenset({one.id}))))
        seen = await until(backend, lambda o, old=one.id: ready(1)(o) and old not in ids(o))  # type: ignore[misc]
        (one,) = seen.replicas
    named: set[str] = set()
    async with asyncio.timeout(60):  # being ready does not wait for what was said to be written
        while one.id not in named:
            await asyncio.sleep(0.02)
            named = {line.split()[0] for line in (await backend.logs(*TARGET, 100)).splitlines()}
    assert named == {*gone[1:], one.id}
    assert not list((rig.data.replicas / "ended").rglob("replica.json"))  # it holds the environment's secrets
    await backend.close(end_replicas=True)


async def test_a_second_owner_is_refused_until_the_first_lets_go(rig: LocalRig) -> None:
    backend, _ = await started(rig)
    other = rig.backend()
    with pytest.raises(Conflict):
        await other.start()
    with pytest.raises(Unavailable):
        await other.apply(plan())
    await backend.close(end_replicas=False)
    third = rig.backend()
    await third.start()
    await until(third, ready(1))
    await third.close(end_replicas=True)


OWNER = """
import asyncio, json, sys
from pathlib import Path
from tests.support.backend_rigs import LocalRig, plan, ready, until, wish

async def main():
    rig = LocalRig(Path(sys.argv[1]), Path(sys.argv[2]))
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    seen = await until(backend, ready(2))
    print(json.dumps({one.id: one.port for one in seen.replicas}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_owner_leaves_its_replicas_serving_for_the_next_one(rig: LocalRig, backend_cache: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(OWNER), str(rig.data.root), str(backend_cache),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert owner.stdout is not None
    async with asyncio.timeout(60):
        assert await owner.stdout.readline()
    before = set(marked(rig.data.root))
    owner.kill()
    await owner.wait()
    assert set(marked(rig.data.root)) == before
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2), generation=2))
    seen = await until(backend, ready(2))
    assert len({await fetch(one, "/pid") for one in seen.replicas}) == 2
    assert set(marked(rig.data.root)) == before
    await backend.close(end_replicas=True)


async def test_what_died_while_nobody_owned_it_is_cleaned_up_at_the_next_start(rig: LocalRig) -> None:
    backend, (one, two) = await started(rig, "--children", count=2)
    shim = shim_of(backend, one)
    (rig.data.replicas / "half-made").mkdir()
    await backend.close(end_replicas=False)
    os.kill(shim, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, shim, 0)
    following = rig.backend()
    await following.start()
    seen = await until(following, lambda _: True)  # the very first one: traffic must not pause
    assert ids(seen) == {two.id}
    assert ready(1)(seen)
    assert seen.replicas[0].port == two.port
    assert len(marked(rig.data.root)) == 3
    assert not (rig.data.replicas / "half-made").exists()
    await following.close(end_replicas=True)


async def test_a_replica_without_an_owner_for_too_long_ends_itself(rig: LocalRig) -> None:
    backend = rig.backend(dataclasses.replace(RULES, orphan_seconds=0.5))
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    await until(backend, ready(1))
    await asyncio.sleep(1.0)  # longer than that, but owned
    await until(backend, ready(1))
    await backend.close(end_replicas=False)
    await eventually(lambda: not _running(marked(rig.data.root)), "the replica ends by itself")


def _running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if processes.identity(pid) is not None]


def test_a_port_that_is_taken_is_not_handed_out_again() -> None:
    with free_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with free_port("127.0.0.1", port) as second:
            assert second.getsockname()[1] != port
    with free_port("127.0.0.1", port) as third:
        assert third.getsockname()[1] == port
