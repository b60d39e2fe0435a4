"""The classes a broker loads, kept as the JVM lays them out in memory: a start takes about half the time.

The first broker that is stopped in good order leaves the archive (class data sharing) beside the jars. The JVM itself
checks that an archive fits it and its jars, and does without one that does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

_OWN = "classes.jsa"


def class_path(jars: Path) -> str:
    """All jars, always in the same order: an archive holds for one class path only."""
    return os.pathsep.join(str(jar) for jar in sorted(jars.glob("*.jar")))


def flags(program: str, jars: Path, folder: Path) -> list[str]:
    """Flags of a JVM that uses the archive, or of one that writes it into `folder` at its end when there is none."""
    archive = _archive(program, jars)
    quiet = ["-Xlog:disable", "-Xlog:all=error:stderr"]  # what cannot be archived is nobody's concern
    if archive.exists():
        return [*quiet, f"-XX:SharedArchiveFile={archive}"]
    return [*quiet, f"-XX:ArchiveClassesAtExit={folder / _OWN}"]


def keep(program: str, jars: Path, folder: Path) -> None:
    """Move what a JVM that has ended wrote into `folder` to where the next ones look; whole or not at all."""
    written = folder / _OWN
    if not written.exists():
        return
    beside = jars / f".{os.getpid()}-{id(folder)}.jsa"
    with contextlib.suppress(PermissionError):  # a cache that is not ours to write to stays as it is
        shutil.move(written, beside)
        beside.replace(_archive(program, jars))


def _archive(program: str, jars: Path) -> Path:
    real = Path(program).resolve()
    told = f"{real} {real.stat().st_size} {real.stat().st_mtime_ns}"
    return jars / f"classes-{hashlib.sha256(told.encode()).hexdigest()[:12]}.jsa"
