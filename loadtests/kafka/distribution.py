"""The broker's jars: resolved once by Maven from the pinned `pom.xml`, kept in Tidegate's cache, reused ever after.

The folder's name holds the hash of the pom, it appears whole or not at all, and a lock lets parallel runs wait for one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from loadtests.made_once import Unmade, made_once, run
from router.runtime.settings import default_cache

VERSION = "4.1.0"
POM = Path(__file__).with_name("pom.xml")
JAVA_NEEDED = 17
"""Kafka 4's broker runs on nothing older."""
RESOLVE_SECONDS = 600.0
"""Longest time for Maven; about 20 s on a quick line."""


class Unresolved(RuntimeError):
    """The jars could not be had."""


def java() -> str | None:
    """Path of the Java that would run the broker: `$JAVA_HOME`'s, else the first on the path."""
    home = os.environ.get("JAVA_HOME")
    if home and os.access(Path(home) / "bin" / "java", os.X_OK):
        return str(Path(home) / "bin" / "java")
    return shutil.which("java")


def java_version(program: str) -> int:
    """Major version of a Java; 0 when it does not say."""
    try:
        said = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def folder() -> Path:
    """Where the jars of this very pom lie, once they are there."""
    return default_cache() / f"kafka-{VERSION}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


def missing() -> str | None:
    """Why no broker can run here, in words; None when one can."""
    program = java()
    if program is None:
        return f"Kafka needs Java {JAVA_NEEDED} or newer, and there is no java on the path"
    version = java_version(program)
    if version < JAVA_NEEDED:
        return f"Kafka needs Java {JAVA_NEEDED} or newer, and {program} is {version or 'of an unknown version'}"
    if not folder().exists() and shutil.which("mvn") is None:
        return "Kafka's jars are not in the cache yet, and there is no mvn (Maven) on the path to fetch them"
    return None


async def distribution() -> Path:
    """The folder with the broker's jars, fetched when it is not there yet. Raises Unresolved with Maven's words."""
    return await made_once(folder(), _resolve, deadline_seconds=RESOLVE_SECONDS)


async def _resolve(jars: Path) -> None:
    # Strict checksums: a jar that does not match what the repository says of it is an error.
    command = ["mvn", "-q", "-B", "-C", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={jars}"]
    try:
        await run(*command, folder=jars.parent, nice=False)
    except Unmade as error:
        raise Unresolved(f"mvn could not fetch Kafka {VERSION}: {error}") from None
