"""The init container: fetches what the document names, and prepares the environment to run it in.

    python -m autoscaler.backends.kubernetes.preparation

Run again after a failure it goes on where it stopped. Why it failed is its container's termination message, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autoscaler.backends.kubernetes import layout
from autoscaler.backends.kubernetes.files import digests
from autoscaler.backends.kubernetes.user_images import base_is_left_out, model_place
from autoscaler.backends.local.conda import SERVER_PACKAGE, NotAnEnvironment, Requirements
from autoscaler.backends.local.environments import BuildFailed, EnvironmentStore, write_whole
from autoscaler.backends.local.launch import Unlaunchable, model_folder, needs, plan_launch
from autoscaler.backends.local.preparation import read_requirements
from router.contract.errors import TidegateError
from router.contract.signatures import QUERY
from router.runtime.archives import unpack

TERMINATION_LOG = Path("/dev/termination-log")
MESSAGE_BYTES = 4000
"""Kubernetes keeps 4,096 of a termination message."""
FETCH_SECONDS = 60.0
"""Longest time without a byte."""
PATIENCE_SECONDS = 45.0
"""A control plane that does not answer is asked again for this long before the container fails and is started anew."""
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is put; in a pod as `layout` says."""

    app: Path = layout.APP
    cache: Path = layout.APP
    """Built environments."""
    prebuilt: Path = layout.PREBUILT

    @property
    def assets(self) -> Path:
        """Fetched files, as on the control plane's disk."""
        return self.app / layout.ASSETS.name


class NotFetched(Exception):
    """Files cannot be had from the control plane."""


def prepare(
    document: Mapping[str, Any],
    task: str,
    control_url: str,
    place: Place,
    signatures: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Everything that `task` asks for; returns what a user should know. `signatures`: asset → what opens it.

    Raises what `failure_of` explains.
    """
    for digest in digests(document):
        fetch(control_url, digest, place.assets, signatures.get(digest, ""))
    _link_model(document, place)
    if task == "files":
        return ""
    requirements = read_requirements(needs(document, place.assets))
    environment, warnings = asyncio.run(_environment(requirements, place))
    plan_launch(document, place.assets, environment, {})  # what cannot be started is found out here
    told = {"document": dict(document), "environment": str(environment)}
    write_whole(place.app / layout.LAUNCH.name, json.dumps(told), durable=False)
    return "; ".join(note for note in (base_is_left_out(document), *warnings) if note)


def fetch(control_url: str, digest: str, assets: Path, signature: str = "") -> None:
    """Put the asset into `assets/<digest>`, whole or not at all. Raises `NotFetched`."""
    folder, work = assets / digest, assets / f".{digest}"
    if folder.is_dir():
        return
    url = f"{control_url.rstrip('/')}/v1/assets/{digest}"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            _download(url + (f"?{QUERY}={signature}" if signature else ""), work)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or time.monotonic() > deadline:
                raise NotFetched(f"GET {url} is answered with {error.code}: {_body(error)}") from error
        except (OSError, http.client.HTTPException, TidegateError) as error:
            if time.monotonic() > deadline:
                hint = "is --kubernetes-control-url right, and may the pods reach it (NetworkPolicy)?"
                raise NotFetched(f"GET {url} fails: {getattr(error, 'reason', None) or error}; {hint}") from error
        time.sleep(_PAUSE_SECONDS)
    work.rename(folder)


def _download(url: str, folder: Path) -> None:
    # The control plane is inside the cluster: a proxy for the packages' sake has no business here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=FETCH_SECONDS) as answer:
        unpack(answer, folder)
        while answer.read(1 << 16):  # an archive that was cut off behind its last member raises here
            pass


def _body(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(error.read(10_000))["error"]["message"])
    return str(error.reason)


def _link_model(document: Mapping[str, Any], place: Place) -> None:
    """The model under the name and version that Azure's images look for; a relative link, valid in every mount."""
    here, folder = model_place(document), model_folder(document, place.assets)
    if here is None or folder is None:
        return
    link = place.app / layout.MODELS.name / here
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(folder, link.parent))


async def _environment(requirements: Requirements, place: Place) -> tuple[Path, tuple[str, ...]]:
    here = f"=={sys.version_info.major}.{sys.version_info.minor}.*"
    ready = (place.prebuilt / "bin" / "azmlinfsrv").exists()
    if ready and set(requirements.lines) <= {SERVER_PACKAGE} and requirements.python in (None, here):
        return place.prebuilt, requirements.warnings
    store = EnvironmentStore(place.cache, inherited={**os.environ, "UV_CACHE_DIR": str(place.cache / "uv")})
    return await store.ensure(requirements, lambda _, message: print(message, flush=True))  # noqa: T201 -- the container's log


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Every failure becomes the termination message and exit status 1."""
    try:
        yield
    except Exception as error:
        reason, message, log_tail = failure_of(error)
        print(f"{reason}: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the container's log
        tell({"reason": reason, "message": message, "log_tail": log_tail})
        raise SystemExit(1) from None


def failure_of(error: Exception) -> tuple[str, str, str]:
    """(reason, message, end of the log) in Azure's words. What is nobody's known fault is raised again."""
    if isinstance(error, Unlaunchable):
        return error.reason, error.message, ""
    if isinstance(error, BuildFailed):
        return "ImageBuildFailure", error.message, error.log_tail
    if isinstance(error, NotAnEnvironment):
        return "ImageBuildFailure", f"environment.conda_file: {error}", ""
    if isinstance(error, NotFetched):
        return "ResourceNotReady", str(error), ""
    if isinstance(error, TidegateError):
        return "BadArgument", error.message, ""
    return "InternalServerError", f"{type(error).__name__}: {error}", ""


def tell(told: Mapping[str, str], path: Path = TERMINATION_LOG) -> None:
    """Write the termination message; the end of the log gives way."""
    told = dict(told)
    while len(text := json.dumps(told)) > MESSAGE_BYTES:
        name = max(told, key=lambda one: len(told[one]))
        told[name] = told[name][len(told[name]) // 8 + 1 :]
    path.write_text(text)


def main() -> None:
    """What the environment variables of `layout` say."""
    with _told():
        document = json.loads(os.environ[layout.DOCUMENT])
        signatures = json.loads(os.environ.get(layout.SIGNATURES) or "{}")
        place = Place(cache=Path(os.environ[layout.ENVIRONMENTS]))
        note = prepare(document, os.environ[layout.TASK], os.environ[layout.CONTROL_URL], place, signatures)
        if note:
            tell({"note": note})


if __name__ == "__main__":
    main()
