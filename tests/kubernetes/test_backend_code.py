"""Code, models and environments reach real pods: fetched from a real control plane, prepared in the pod, served."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from autoscaler.backends.base import Observation, ObservedReplica
from router.contract.events import Phase
from router.runtime.given import Secret
from router.runtime.login import for_control
from tests.support.backend_rigs import DEADLINE_SECONDS, TARGET, ids, plan, ready, until, wish
from tests.support.control_plane import Running, running, tar_of
from tests.support.kubernetes_pods import RESTRICTED
from tests.support.kubernetes_rig import KubernetesRig

SCORE = b"""
import json, os, time

def init():
    global weights
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weights.json")) as file:
        weights = json.load(file)
    print("weights are loaded")

def run(data):
    asked = json.loads(data)
    print("asked for", asked["x"], flush=True)
    time.sleep(asked.get("seconds", 0))
    return {"answer": asked["x"] * weights["factor"], "word": os.environ["WORD"], "user": os.getuid()}
"""
TOKEN, ASSETS_KEY = "operator-of-the-test", Secret("opens-single-files-of-the-test")
PROBE = {"period": 1, "timeout": 5, "failure_threshold": 30}


def address(rig: KubernetesRig) -> str:
    """Where pods find this machine."""
    return str(urlsplit(rig.cluster.server).hostname)


@asynccontextmanager
async def control_plane(rig: KubernetesRig, folder: Path) -> AsyncIterator[tuple[Running, str]]:
    """A control plane that pods can reach, and its address."""
    login = for_control(address(rig), {"TIDEGATE_CONTROL_TOKEN": TOKEN, "TIDEGATE_ASSETS_KEY": ASSETS_KEY})
    async with running(folder, host=address(rig), login=login) as plane:
        plane.call.session.headers["Authorization"] = f"Bearer {TOKEN}"
        plane.call.base = f"http://{address(rig)}:{plane.settings.port}"
        yield plane, plane.call.base


async def uploaded(plane: Running, **files: bytes) -> str:
    """An asset of these files; `__` in a name stands for a dot."""
    body = tar_of({name.replace("__", "."): content for name, content in files.items()})
    digest = hashlib.sha256(body).hexdigest()
    answer = await plane.call("PUT", f"/v1/assets/{digest}", data=body)
    assert answer.status in (200, 201), answer.text
    return f"asset:{digest}"


async def code_document(plane: Running) -> dict[str, Any]:
    code = await uploaded(plane, score__py=SCORE)
    model = await uploaded(plane, weights__json=b'{"factor": 7}')
    return {
        "instance_type": "small",
        "code_configuration": {"code": code, "scoring_script": "score.py"},
        "model": {"path": f"{model}/weights.json"},
        "environment_variables": {"WORD": "$(HOME) costs $5"},
        "readiness_probe": PROBE,
        "liveness_probe": PROBE,
        "tidegate": {"drain_seconds": 20},
    }


async def score(one: ObservedReplica, **asked: Any) -> dict[str, Any]:
    url = f"http://{one.host}:{one.port}/score"
    async with aiohttp.ClientSession() as session, session.post(url, json=asked) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def test_a_scoring_script_is_served_with_its_model_in_a_restricted_namespace(
    rig: KubernetesRig, tmp_path: Path
) -> None:
    await rig.cluster.api.patch(f"/api/v1/namespaces/{rig.namespace}", {"metadata": {"labels": RESTRICTED}})
    async with control_plane(rig, tmp_path / "control") as (plane, url):
        backend = rig.backend(rig.settings(control_url=url, assets_key=ASSETS_KEY))
        await backend.start()
        await backend.apply(plan(wish(await code_document(plane), 1)))
        (one,) = (await until(backend, ready(1))).replicas
    assert await score(one, x=6) == {"answer": 42, "word": "$(HOME) costs $5", "user": 10001}
    assert "weights are loaded" in await backend.logs(*TARGET, 100)
    (pod,) = await rig.list("pods")
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    assert "serviceAccountToken" not in str(pod["spec"].get("volumes"))


async def test_a_request_that_runs_when_its_pod_is_deleted_is_answered(rig: KubernetesRig, tmp_path: Path) -> None:
    async with control_plane(rig, tmp_path / "control") as (plane, url):
        backend = rig.backend(rig.settings(control_url=url, assets_key=ASSETS_KEY))
        await backend.start()
        await backend.apply(plan(wish(await code_document(plane), 1)))
        (one,) = (await until(backend, ready(1))).replicas
        under_way = asyncio.create_task(score(one, x=6, seconds=6))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while "asked for 6" not in await backend.logs(*TARGET, 100):
                await asyncio.sleep(0.05)
        await backend.apply(plan(wish(await code_document(plane), 0, remove=frozenset({one.id}))))
        await until(backend, lambda o: not o.replicas)
        assert (await under_way)["answer"] == 42


async def test_a_server_that_asks_for_no_signal_ends_by_sigterm_all_the_same(rig: KubernetesRig) -> None:
    """As on one machine. As the first process of its container it would not hear it, and stay for the whole grace period."""
    document = {name: value for name, value in rig.document.items() if name != "environment"}
    document["tidegate"] = {**document["tidegate"], "drain_seconds": 3600}
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 1)))
    seen = await until(backend, ready(1))
    await backend.apply(plan(wish(document, 0, remove=frozenset(ids(seen)))))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await rig.list("pods"):
            await asyncio.sleep(0.1)


async def test_code_that_fails_at_its_start_says_so(rig: KubernetesRig, tmp_path: Path) -> None:
    async with control_plane(rig, tmp_path / "control") as (plane, url):
        document = await code_document(plane)
        document["code_configuration"]["code"] = await uploaded(
            plane, score__py=SCORE.replace(b"global weights", b"1 / 0")
        )
        backend = rig.backend(rig.settings(control_url=url, assets_key=ASSETS_KEY))
        await backend.start()
        await backend.apply(plan(wish(document, 1)))

        def has_failed(seen: Observation) -> bool:
            told = seen.conditions.get(TARGET)
            return told is not None and told.phase is Phase.FAILED and "ZeroDivisionError" in told.log_tail

        seen = await until(backend, has_failed)
        assert seen.conditions[TARGET].reason == "UserScriptInitFailed"


async def test_files_that_cannot_be_had_are_named(rig: KubernetesRig, tmp_path: Path) -> None:
    async with control_plane(rig, tmp_path / "control") as (plane, url):
        document = await code_document(plane)
        document["model"]["path"] = f"asset:{'0' * 64}"
        backend = rig.backend(rig.settings(control_url=url, assets_key=ASSETS_KEY))
        await backend.start()
        await backend.apply(plan(wish(document, 1)))
        seen = await until(backend, lambda o: TARGET in o.conditions and o.conditions[TARGET].phase is Phase.FAILED)
        assert seen.conditions[TARGET].reason == "ResourceNotReady"
        assert f"GET {url}/v1/assets/{'0' * 64} is answered with 404: there is no asset" in (
            seen.conditions[TARGET].message
        )


async def test_a_users_image_finds_code_and_model_where_azure_puts_them(rig: KubernetesRig, tmp_path: Path) -> None:
    look = """
import os
print("model", open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weights.json")).read(), os.environ["AZUREML_MODEL_DIR"])
print("code", sorted(os.listdir(os.environ["AML_APP_ROOT"])), os.environ["AZUREML_ENTRY_SCRIPT"], flush=True)
"""
    async with control_plane(rig, tmp_path / "control") as (plane, url):
        document = {**rig.document, **await code_document(plane)}
        document["model"] |= {"name": "tides", "version": 3}
        document["model_mount_path"] = "/models"
        document["environment"] = {"image": rig.image}
        (*before, source, port, flag, host) = rig.document["tidegate"]["command"]
        document["tidegate"] = {"command": [*before, look + source, port, flag, host], "drain_seconds": 1}
        backend = rig.backend(rig.settings(control_url=url, assets_key=ASSETS_KEY))
        await backend.start()
        await backend.apply(plan(wish(document, 1)))
        await until(backend, ready(1))
        said = await backend.logs(*TARGET, 100)
        assert 'model {"factor": 7} /models/azureml-models/tides/3' in said
        assert "code ['score.py'] score.py" in said


def wheel(name: str, version: str) -> bytes:
    """A package of one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return sink.getvalue()


@contextmanager
def index(host: str, folder: Path) -> Iterator[str]:
    """A package index with one package, reachable from pods."""
    packages = folder / "simple" / "tidetable"
    packages.mkdir(parents=True)
    (packages / "tidetable-1.5-py3-none-any.whl").write_bytes(wheel("tidetable", "1.5"))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}/simple"
        finally:
            server.shutdown()
            thread.join()


async def test_an_environment_is_built_in_the_pod_from_the_index_that_a_secret_names(
    rig: KubernetesRig, tmp_path: Path
) -> None:
    async with control_plane(rig, tmp_path / "control") as (plane, url):
        backend = rig.backend(rig.settings(control_url=url, assets_key=ASSETS_KEY))
        await backend.start()
        conda = await uploaded(plane, conda__yml=b"dependencies: [python, tidetable=1.5]\n")
        (_, *options, source, port, flag, host) = rig.document["tidegate"]["command"]
        source = "import tidetable; print('tides', tidetable.VERSION, flush=True)\n" + source
        command = ["python", *(one for one in options if one != "-S"), source, port, flag, host]
        document = {
            **rig.document,
            "environment": {"conda_file": f"{conda}/conda.yml"},
            "tidegate": {"command": command, "drain_seconds": 1},
        }
        secret = {"metadata": {"name": "tidegate-build"}, "stringData": {"UV_OFFLINE": "1"}}
        await rig.cluster.api.post(rig.path("secrets"), secret)
        await backend.apply(plan(wish(document, 1)))
        seen = await until(backend, lambda o: TARGET in o.conditions and o.conditions[TARGET].phase is Phase.FAILED)
        assert seen.conditions[TARGET].reason == "ImageBuildFailure"
        assert "tidetable" in seen.conditions[TARGET].log_tail
        with index(address(rig), tmp_path) as packages:
            values = {"UV_OFFLINE": None, "UV_DEFAULT_INDEX": packages}
            found = {"data": {"UV_OFFLINE": None}, "stringData": {k: v for k, v in values.items() if v}}
            await rig.cluster.api.patch(rig.path("secrets", "tidegate-build"), found)
            stuck = frozenset(ids(seen))
            await backend.apply(plan(wish(document, 1, template="t2", remove=stuck)))
            await until(backend, ready(1, "t2"))
        assert "tides 1.5" in await backend.logs(*TARGET, 100)
