"""Which address block a cluster has, noted where the next one finds it: a dead owner's leavings are swept up by whoever comes.

A claim is a locked file. The kernel unlocks it when the owner dies, however it dies, and a file that is unlocked but not
empty names what was left. Nodes live in namespaces of their own, which end with their first process; what remains are
control groups, a bridge, routes and folders, and their names follow from the block's number.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from loadtests.kubernetes.cluster import network
from loadtests.made_once import locked
from router.runtime.processes import alive, identity, kill

FOLDER = Path("/run/tidegate/clusters")
NUMBERS = range(201, 250)
"""Second bytes of 10.x.0.0/16 to choose from."""
CGROUPS = Path("/sys/fs/cgroup")
_SWEEP_SECONDS = 30.0


@dataclass(eq=False)
class Claim:
    """The block 10.`number`.0.0/16, as long as this object is open."""

    number: int
    file: int
    """Descriptor of the locked file."""
    note: dict[str, list[Any]] = field(default_factory=lambda: {"processes": [], "folders": []})

    @property
    def subnets(self) -> network.Subnets:
        """The block, divided."""
        return network.Subnets(self.number)

    @property
    def cgroup(self) -> str:
        """Name of the control group, in every hierarchy, that everything in containers is under."""
        return f"tidegate-{self.number}"

    def add_process(self, pid: int) -> None:
        """Note a process that must end: the first one of a node."""
        if who := identity(pid):
            self._add("processes", list(who))

    def add_folder(self, folder: Path) -> None:
        """Note a folder that is worth nothing without its owner."""
        if str(folder) not in self.note["folders"]:
            self._add("folders", str(folder))

    def release(self) -> None:
        """Undo everything that was noted and let the block go."""
        sweep(self.number, self.note)
        os.ftruncate(self.file, 0)
        os.close(self.file)

    def _add(self, name: str, value: Any) -> None:
        self.note[name].append(value)
        self.save()

    def save(self) -> None:
        """Write down what there is."""
        content = json.dumps(self.note).encode()
        os.pwrite(self.file, content, 0)
        os.ftruncate(self.file, len(content))


def claim() -> Claim:
    """A block that nobody has and no route of this machine leads to; what dead owners left is swept up first."""
    sweep_dead()
    routes = network.routes()
    for number in NUMBERS:
        file = _take(number)
        if file is None:
            continue
        if _overlaps(number, routes):
            os.close(file)
            continue
        found = Claim(number, file)
        found.save()  # from here on there is something to sweep up
        return found
    raise RuntimeError(f"all of 10.{NUMBERS[0]}.0.0/16 to 10.{NUMBERS[-1]}.0.0/16 are in use on this machine")


def sweep_dead() -> None:
    """End and remove what clusters left whose owners are dead."""
    FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in os.listdir(FOLDER):
        if (file := _take(int(name))) is not None:
            os.close(file)


def _take(number: int) -> int | None:
    """The block's file, locked, and clean; None while somebody has it."""
    file = os.open(FOLDER / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not locked(file):
        os.close(file)
        return None
    if content := os.pread(file, 1 << 20, 0):
        note = {}
        with contextlib.suppress(ValueError):  # a note cut short: what follows from the number is swept all the same
            note = json.loads(content)
        sweep(number, note)
        os.ftruncate(file, 0)
    return file


def _overlaps(number: int, routes: list[IPv4Network]) -> bool:
    block = network.Subnets(number).block
    return any(route.prefixlen and block.overlaps(route) for route in routes)


def sweep(number: int, note: dict[str, Any]) -> None:
    """End and remove whatever there is of a cluster; nothing of it must be in use any more."""
    for pid, start_ticks in note.get("processes", ()):
        kill((pid, start_ticks))
        _wait_gone((pid, start_ticks))
    network.remove(number)
    remove_cgroups(f"tidegate-{number}")
    for folder in note.get("folders", ()):
        if Path(folder).exists():
            shutil.rmtree(folder)


def make_cgroups(name: str) -> None:
    """Make a control group in every hierarchy, with all that the one above it may decide about."""
    for hierarchy in _hierarchies():
        group = hierarchy
        for part in Path(name).parts:
            above, group = group, group / part
            if (controllers := above / "cgroup.controllers").exists():  # version 2
                words = " ".join(f"+{one}" for one in controllers.read_text().split())
                (above / "cgroup.subtree_control").write_text(words)
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (group / setting).exists() and (above / setting).exists():
                    (group / setting).write_text((above / setting).read_text())


def _hierarchies() -> list[Path]:
    """All of version 1, or the one of version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [folder for folder in CGROUPS.iterdir() if folder.is_dir() and not folder.is_symlink()]


def remove_cgroups(name: str) -> None:
    """Remove a control group and those below it from every hierarchy, once the kernel has let go of its last process."""
    deadline = time.monotonic() + _SWEEP_SECONDS
    for top in (hierarchy / name for hierarchy in _hierarchies()):
        for folder, _, _ in os.walk(top, topdown=False):
            while True:
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
                else:
                    break


def _wait_gone(who: tuple[int, int]) -> None:
    deadline = time.monotonic() + _SWEEP_SECONDS
    while alive(who):
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {who[0]} of a dead cluster does not end")
        time.sleep(0.02)
