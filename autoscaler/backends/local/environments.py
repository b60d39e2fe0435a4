"""Built environments, shared by every replica and data folder: `environments/<key>/` is a virtual environment, whole
once it holds the marker file that is written last.

The key is a hash over everything that goes in. One builder at a time, by a file lock that the builder's children hold
too: a builder that was killed leaves a half-built folder, which the next one wipes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import uv

from autoscaler.backends.local.conda import Requirements

Progress = Callable[[float, str], None]
"""(0–1, what is being done)."""

MARKER = "complete.json"
_LAYOUT = 1
"""Part of every key; a change of how environments are built makes new ones."""
_TAIL_LINES = 40


class BuildFailed(Exception):
    """An environment could not be built; `log_tail` is the end of the builder's output."""

    def __init__(self, message: str, log_tail: str) -> None:
        super().__init__(message)
        self.message = message
        self.log_tail = log_tail


class BuildProgress:
    """From the lines of uv's output to one growing number. Pure."""

    _STEPS = ((r"Resolved \d+ package", 0.15), (r"Prepared \d+ package", 0.75), (r"Installed \d+ package", 0.85))

    def __init__(self) -> None:
        self.fraction = 0.02
        self._announced = 0
        self._fetched = 0

    def line(self, text: str) -> float:
        """Take one line; returns the fraction done so far."""
        for pattern, done in self._STEPS:
            if re.match(pattern, text.strip()):
                self.fraction = max(self.fraction, done)
        self._announced += text.strip().startswith(("Downloading ", "Building "))
        self._fetched += text.strip().startswith(("Downloaded ", "Built "))
        if self._announced:
            self.fraction = max(self.fraction, 0.15 + 0.6 * min(1.0, self._fetched / self._announced))
        return self.fraction


def environment_key(requirements: Requirements, interpreter: str, platform: str) -> str:
    """32 hex digits over what goes into an environment; the order of the lines does not matter."""
    parts = [_LAYOUT, sorted(requirements.lines), interpreter, platform]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class EnvironmentStore:
    """The environments under `cache/environments`."""

    def __init__(self, cache: Path, *, inherited: Mapping[str, str] | None = None) -> None:
        self._folder = cache.absolute() / "environments"
        base = dict(os.environ if inherited is None else inherited)
        for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME"):
            base.pop(name, None)
        # Interpreters are the machine's owner's business: nothing is downloaded behind their back.
        self._env = base | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}

    async def ensure(self, requirements: Requirements, progress: Progress) -> tuple[Path, tuple[str, ...]]:
        """The environment's folder, built if need be, and all warnings. Raises `BuildFailed`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        interpreter, warnings = await self._interpreter(requirements.python)
        warnings = requirements.warnings + warnings
        key = environment_key(requirements, interpreter, sysconfig.get_platform())
        folder = self._folder / key
        if is_complete(folder):
            return folder, warnings
        progress(0.0, "waiting for another build of the same environment")
        async with _locked(self._folder / f"{key}.lock") as lock:
            if not is_complete(folder):
                await self._build(folder, requirements, interpreter, lock, progress)
        return folder, warnings

    async def _interpreter(self, wanted: str | None) -> tuple[str, tuple[str, ...]]:
        """(path of the interpreter to build on, warnings)."""
        running = os.path.realpath(sys.executable)
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if wanted is None:
            return running, ()
        exact = re.fullmatch(r"==(\d+\.\d+)(\.\*)?", wanted)
        if exact and exact[1] == here:
            return running, ()
        request = exact[1] if exact else wanted
        process = await asyncio.create_subprocess_exec(
            uv.find_uv_bin(), "python", "find", "--no-project", request,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=self._env, cwd=self._folder,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        except BaseException:
            await _kill(process)
            raise
        if process.returncode == 0 and output.strip():
            return os.path.realpath(output.decode().strip()), ()
        return running, (f"no Python {request} is installed on this machine; Python {here} is used instead",)

    async def _build(
        self, folder: Path, requirements: Requirements, interpreter: str, lock: int, progress: Progress
    ) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        progress(0.01, "making the environment")
        lines: list[str] = []
        track = BuildProgress()

        def on_line(line: str) -> None:
            lines.append(line)
            del lines[:-1000]
            progress(track.line(line), line.strip())

        await self._uv(["venv", "--no-project", "--python", interpreter, str(folder)], lock, on_line, lines)
        wanted = folder / "requirements.txt"
        wanted.write_text("".join(f"{line}\n" for line in requirements.lines))
        if requirements.lines:
            arguments = ["pip", "install", "--python", str(folder / "bin" / "python"), "--compile-bytecode"]
            await self._uv([*arguments, "--requirement", str(wanted)], lock, on_line, lines)
        (folder / "build.log").write_text("".join(f"{line}\n" for line in lines))
        write_whole(folder / MARKER, json.dumps({"requirements": requirements.lines, "python": interpreter}))
        progress(1.0, "built")

    async def _uv(self, arguments: list[str], lock: int, on_line: Callable[[str], None], lines: list[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            uv.find_uv_bin(), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=self._env, cwd=self._folder, pass_fds=(lock,), start_new_session=True, limit=1 << 20,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                on_line(line.decode(errors="replace").rstrip())
            await process.wait()
        except BaseException:
            await _kill(process)
            raise
        if process.returncode != 0:
            tail = "\n".join(lines[-_TAIL_LINES:])
            raise BuildFailed(f"uv {arguments[0]} ended with {process.returncode}: {_first_error(lines)}", tail)


_TELLING = re.compile(r"\s*(error|cause:|×|╰)")


def _first_error(lines: list[str]) -> str:
    telling = [re.sub(r"^[\s×╰─▶│├]*(error:|cause:)?\s*", "", line) for line in lines if _TELLING.match(line)]
    return " ".join(telling)[:500] or "see the log"


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


def is_complete(folder: Path) -> bool:
    """Whether an environment is whole and its interpreter still there."""
    return (folder / MARKER).is_file() and os.access(folder / "bin" / "python", os.X_OK)


def write_whole(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file so that a reader finds either the old content or the new; with `durable` also after a power cut."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.05)
        yield fd
    finally:
        os.close(fd)
