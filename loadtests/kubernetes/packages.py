"""Python packages for pods that build environments, where nothing but this machine is in their reach.

They are fetched once, as this machine's own pip is set up to, and then served to the cluster as an index of its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests.made_once import made_once, run, say
from router.runtime.settings import default_cache

DOWNLOAD_SECONDS = 900.0


async def wheels(requirements: Sequence[str]) -> Path:
    """All that `requirements` (pip's lines) need on this Python, a folder for each project. Raises `Unmade` with pip's words."""
    digest = hashlib.sha256(repr((sorted(requirements), sys.version_info[:2])).encode()).hexdigest()[:12]

    async def download(made: Path) -> None:
        say("fetching the packages that pods will need")
        await run(
            sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--only-binary=:all:",
            f"--dest={made}", *requirements,
        )  # fmt: skip
        for wheel in list(made.glob("*.whl")):
            project = made / re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
            project.mkdir(exist_ok=True)
            wheel.rename(project / wheel.name)

    return await made_once(default_cache() / f"wheels-{digest}", download, deadline_seconds=DOWNLOAD_SECONDS)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Silence."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has seen enough is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextlib.contextmanager
def served(folder: Path, host: str) -> Iterator[str]:
    """Serve `folder` at `host` meanwhile, which makes it a package index (PEP 503); yields its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with _Server((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="packages")
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
