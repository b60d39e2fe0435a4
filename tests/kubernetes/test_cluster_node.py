"""A real node of the test cluster: lost and found again, and gone without a trace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtests.kubernetes.cluster import claims, network
from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_pods import is_ready, pod

SECONDS = 120
TOP = Path(__file__).parents[2]
UP = [sys.executable, "-m", "loadtests.kubernetes.cluster", "up"]
PODS = "/api/v1/namespaces/default/pods"


def traces(folder: Path, number: int) -> dict[str, list[str]]:
    """What there is of a cluster outside its folder: processes, mounts, links, routes, control groups."""
    subnets = network.Subnets(number)
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout)
    ours = (subnets.bridge, f"tg{number}n")
    return {
        "processes": processes_of(folder),
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line],
        "links": [link["ifname"] for link in links if link["ifname"].startswith(ours)],
        "routes": [str(route) for route in network.routes() if route.prefixlen and route.subnet_of(subnets.block)],
        "control groups": [str(path) for path in claims.CGROUPS.glob(f"*/tidegate-{number}")],
        "folders": [str(path) for path in folder.glob("node-*")],
    }


def processes_of(folder: Path) -> list[str]:
    """Command lines that mention the folder, this test's own apart; and whatever runs in a node's control groups."""
    found = []
    for pid in (name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(f"{pid}: {words[:200]}")
    return found


async def nothing_left(folder: Path, number: int) -> None:
    """Return when no trace is left. Raises AssertionError with what there still is."""
    left = traces(folder, number)
    try:
        async with asyncio.timeout(SECONDS):
            while any(left.values()):
                await asyncio.sleep(0.05)
                left = traces(folder, number)
    except TimeoutError:
        raise AssertionError(f"left behind: {left}") from None


def number_of(bed: Cluster) -> int:
    return int(bed.node[0].address.split(".")[1])


async def test_a_node_whose_kubelet_is_silent_is_not_ready_until_it_speaks_again(own_cluster: Cluster) -> None:
    node = own_cluster.node[0]
    await own_cluster.api.post(PODS, pod("p"))
    await own_cluster.api.until(PODS, "p", is_ready)
    await node.kubelet.freeze()
    await node.until_ready(ready=False, deadline_seconds=SECONDS)
    unready = await own_cluster.api.until(PODS, "p", lambda one: not is_ready(one))
    assert unready["spec"]["nodeName"] == node.name
    await node.kubelet.thaw()
    await node.until_ready(deadline_seconds=SECONDS)


async def test_a_node_whose_plug_was_pulled_loses_its_pods_and_comes_back_without_them(own_cluster: Cluster) -> None:
    node = own_cluster.node[0]
    await own_cluster.api.post(PODS, pod("p", terminationGracePeriodSeconds=30))
    await own_cluster.api.until(PODS, "p", is_ready)
    await node.kill()
    await node.until_ready(ready=False, deadline_seconds=SECONDS)
    await node.start()
    assert node.pids
    await own_cluster.api.delete(f"{PODS}/p", gracePeriodSeconds="0")
    await own_cluster.api.post(PODS, pod("q", resources={"limits": {"nvidia.com/gpu": "2"}}))
    await own_cluster.api.until(PODS, "q", is_ready, deadline_seconds=SECONDS)


REFUSED = "import socket, sys\ntry: socket.create_connection((sys.argv[1], 9), 5)\nexcept ConnectionRefusedError: print('refused')"


async def test_pods_of_two_nodes_are_reached_from_each_other_and_from_this_machine(
    node_here: None, tmp_path: Path
) -> None:
    bed = Cluster(tmp_path / "two", nodes=2)
    await bed.start()
    try:
        for node in bed.node:
            await bed.api.post(PODS, pod(node.name, nodeName=node.name))
        addresses = [(await bed.api.until(PODS, node.name, is_ready))["status"]["podIP"] for node in bed.node]
        assert len({address.rpartition(".")[0] for address in addresses}) == 2
        for address in addresses:  # nobody listens there, and the pod's own network says so
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(address, 9)
            for node in bed.node:
                assert await node.run(sys.executable, "-c", REFUSED, address) == "refused\n"
        zones = {
            one["metadata"]["labels"]["topology.kubernetes.io/zone"]
            for one in (await bed.api.get("/api/v1/nodes"))["items"]
        }
        assert zones == {"zone-1", "zone-2"}
    finally:
        await bed.stop()


async def test_after_a_stop_there_is_no_trace_of_a_cluster(node_here: None, tmp_path: Path) -> None:
    bed = Cluster(tmp_path / "own", nodes=1)
    await bed.start()
    number = number_of(bed)
    try:
        await bed.api.post(PODS, pod("p", terminationGracePeriodSeconds=3600))
        await bed.api.until(PODS, "p", is_ready)
        there = traces(bed.folder, number)
        assert all(there[kind] for kind in there if kind != "mounts")
        assert not there["mounts"], "a node's mounts are its own"
    finally:
        await bed.stop()
    left = traces(bed.folder, number)
    assert not any(left.values()), left
    assert bed.kubeconfig.exists()


@pytest.fixture
async def in_the_background(node_here: None, tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """The command that people use, running, and its folder."""
    folder = tmp_path / "theirs"
    process = await asyncio.create_subprocess_exec(*UP, "--folder", str(folder), stdout=subprocess.PIPE, cwd=TOP)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            assert (await process.stdout.readline()).decode().strip() == "The cluster is ready."
        yield process, folder
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def number_in(folder: Path) -> int:
    """Of the cluster that lives in a folder."""
    server = next(line for line in (folder / "admin.kubeconfig").read_text().splitlines() if "server:" in line)
    return int(server.split("10.")[1].split(".")[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(
    in_the_background: tuple[asyncio.subprocess.Process, Path], number: signal.Signals
) -> None:
    process, folder = in_the_background
    block = number_in(folder)
    process.send_signal(number)
    assert await process.wait() == 0
    left = traces(folder, block)
    assert not any(left.values()), left


async def test_who_gives_up_while_it_starts_leaves_no_trace(node_here: None, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    process = await asyncio.create_subprocess_exec(*UP, "--folder", str(folder), stdout=subprocess.PIPE, cwd=TOP)
    try:
        async with asyncio.timeout(SECONDS):
            while not (folder / "node-1" / "kubelet.kubeconfig").exists():
                await asyncio.sleep(0.01)
        block = number_in(folder)
        process.send_signal(signal.SIGINT)
    finally:
        said, _ = await process.communicate()
    assert said == b""
    left = traces(folder, block)
    assert not any(left.values()), left


async def test_what_a_killed_owner_could_not_sweep_up_the_next_cluster_does(
    in_the_background: tuple[asyncio.subprocess.Process, Path], tmp_path: Path
) -> None:
    process, folder = in_the_background
    block = number_in(folder)
    kubectl = [str(folder / "kubectl"), f"--kubeconfig={folder / 'admin.kubeconfig'}"]
    run = await asyncio.create_subprocess_exec(
        *kubectl, "run", "p", "--image=tidegate.local/pause:1", "--image-pull-policy=Never", stdout=subprocess.DEVNULL
    )
    assert await run.wait() == 0
    wait = await asyncio.create_subprocess_exec(
        *kubectl, "wait", "--for=condition=Ready", "pod/p", f"--timeout={SECONDS}s", stdout=subprocess.DEVNULL
    )
    assert await wait.wait() == 0
    process.kill()
    await process.wait()
    async with asyncio.timeout(SECONDS):
        while processes_of(folder):  # by themselves: the kernel ends them
            await asyncio.sleep(0.02)
    swept = claims.claim()  # what every cluster with nodes does first
    try:
        await nothing_left(folder, block)
    finally:
        swept.release()


async def test_people_start_it_in_the_background_and_end_it(node_here: None, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    bed = [sys.executable, "-m", "loadtests.kubernetes.cluster"]

    async def says(*words: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *bed, *words, "--folder", str(folder), stdout=subprocess.PIPE, cwd=TOP
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    try:
        code, said = await says("up", "--detach")
        assert code == 0
        assert f"export KUBECONFIG={folder / 'admin.kubeconfig'}" in said
        block = number_in(folder)
        assert (await says("up", "--detach"))[0] == 0, "once more is no harm"
    finally:
        assert (await says("down"))[0] == 0
    left = traces(folder, block)
    assert not any(left.values()), left
    assert not folder.exists()
    assert (await says("down"))[0] == 0
