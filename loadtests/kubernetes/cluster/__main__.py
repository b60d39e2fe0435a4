"""A cluster for people: `make cluster`, look around with kubectl, `make cluster-down`.

    python -m loadtests.kubernetes.cluster up      starts it and stays until SIGTERM or SIGINT; with --detach, in the background
    python -m loadtests.kubernetes.cluster down    ends the one in the background
    python -m loadtests.kubernetes.cluster prepare builds what clusters need and is not in the cache yet

One folder is one cluster: choose another with --folder for a second one beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster import claims, programs
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.cluster.missing import missing
from loadtests.kubernetes.cluster.part import ClusterFailed
from loadtests.made_once import Unmade, say
from router.runtime.processes import Identity, alive, identity, kill
from router.runtime.settings import default_cache

_END_SECONDS = 120.0
_POLL_SECONDS = 0.1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.kubernetes.cluster", description=(__doc__ or "").split("\n", 1)[0])  # fmt: skip
    parser.add_argument("what", choices=["up", "down", "prepare"])
    parser.add_argument("--folder", type=Path, default=default_cache() / "cluster", help="default: %(default)s")
    parser.add_argument(
        "--nodes", type=int, default=1, help="real nodes; 0: only the control plane (default: %(default)s)"
    )
    parser.add_argument(
        "--kwok", type=int, default=0, metavar="N", help="N make-believe nodes of 8 GPUs (default: none)"
    )
    parser.add_argument("--image", action="store_true", help="build Tidegate's image and give it to the nodes")
    parser.add_argument("--detach", action="store_true", help="return when it is ready and leave it in the background")
    flags = parser.parse_args()
    if flags.what == "down":
        return _down(flags.folder)
    if flags.what == "prepare":
        return _prepare()
    if (reason := missing(nodes=flags.nodes) or (image.missing() if flags.image else None)) is not None:
        print(reason, file=sys.stderr)
        return 1
    if (owner := _owner(flags.folder)) is not None:
        print(f"The cluster in {flags.folder} runs already (process {owner.pid}).", file=sys.stderr)
        print(_hints(flags.folder))
        return 0
    return _detached(flags.folder) if flags.detach else _attached(flags)


def _prepare() -> int:
    """Build all there is to build; what cannot be built here is said, and no failure: tests will be skipped."""

    async def programs_of_clusters() -> None:
        for build in (programs.programs, programs.dns, programs.kwok):
            await build()

    async def everything() -> None:
        lanes = [(missing(nodes=0), programs_of_clusters), (image.missing(), image.archive)]
        async with asyncio.TaskGroup() as group:
            for reason, build in lanes:
                if reason is None:
                    group.create_task(build(), name=build.__name__)
                else:
                    say(reason)

    failed = False
    try:
        asyncio.run(everything())
    except* (Unmade, TimeoutError) as errors:
        failed = True
        for error in errors.exceptions:
            print(error, file=sys.stderr)
    return int(failed)


def _attached(flags: argparse.Namespace) -> int:
    try:
        asyncio.run(_up(flags))
    except (ClusterFailed, Unmade) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _up(flags: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    folder: Path = flags.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)  # of one that has ended
    folder.mkdir(parents=True, mode=0o700)
    (folder / "owner.json").write_text(json.dumps(identity(os.getpid())))
    cluster = Cluster(folder, nodes=flags.nodes, kwok=flags.kwok > 0)
    working = asyncio.create_task(_bring_up(cluster, flags), name="bring up the cluster")
    stopping = asyncio.create_task(stop.wait(), name="until told to stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            (folder / "ready").touch()
            if not flags.detach:
                print(_hints(folder), flush=True)
            await stopping
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
        await cluster.stop()
        (folder / "owner.json").unlink()


async def _bring_up(cluster: Cluster, flags: argparse.Namespace) -> None:
    await cluster.start()
    if cluster.fake:
        await cluster.fake.add(flags.kwok)
    if flags.image:
        say(f"nodes have the image {await image.image(cluster)}")


def _detached(folder: Path) -> int:
    words = [word for word in sys.argv[1:] if word != "--detach"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    output = folder.with_name(f"{folder.name}.log")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.kubernetes.cluster", *words],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        with output.open("rb") as said:
            while not ((folder / "ready").exists() and _owner(folder)):
                ended = process.poll() is not None
                _show(said)
                if ended:
                    return 1  # it has said why
                time.sleep(_POLL_SECONDS)
            _show(said)
    except KeyboardInterrupt:
        process.terminate()
        process.wait(_END_SECONDS)
        return 130
    print(_hints(folder))
    process.returncode = 0  # it lives on without us
    return 0


def _show(said: BinaryIO) -> None:
    sys.stderr.buffer.write(said.read())
    sys.stderr.flush()


def _down(folder: Path) -> int:
    owner = _owner(folder)
    if os.geteuid() == 0 and missing() is None:
        claims.sweep_dead()
    if owner is None:
        say(f"no cluster runs in {folder}")
        return 0
    kill(owner, signal.SIGTERM)
    deadline = time.monotonic() + _END_SECONDS
    while alive(owner):
        if time.monotonic() > deadline:
            print(f"process {owner.pid} does not end", file=sys.stderr)
            return 1
        time.sleep(_POLL_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    say("the cluster is gone")
    return 0


def _owner(folder: Path) -> Identity | None:
    try:
        who = Identity(*json.loads((folder / "owner.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return who if alive(who) else None


def _hints(folder: Path) -> str:
    return f"""The cluster is ready.
  export KUBECONFIG={folder / "admin.kubeconfig"}
  {folder / "kubectl"} get nodes,pods --all-namespaces -o wide
Pods and services answer on their addresses from this machine. Output of every part: {folder / "log"}
End it with: make cluster-down"""


if __name__ == "__main__":
    sys.exit(main())
