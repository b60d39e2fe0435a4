"""Environments: built once, whole or not at all, shared; and a real scoring script served from one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uv

from autoscaler.backends.base import ObservedReplica
from autoscaler.backends.local.conda import Requirements
from autoscaler.backends.local.environments import MARKER, BuildFailed, EnvironmentStore, is_complete
from router.contract.events import Phase
from router.runtime import processes
from tests.support.backend_rigs import TARGET, LocalRig, add_asset, eventually, plan, ready, until, wish

WHEEL_SOURCE = {
    "pyproject.toml": """
        [build-system]
        requires = []
        build-backend = "backend"
        backend-path = ["."]
        [project]
        name = "tinymodel"
        version = "1.0"
    """,
    "backend.py": """
        import os, pathlib, sys, time, zipfile
        def get_requires_for_build_wheel(config_settings=None):
            return []
        def build_wheel(directory, config_settings=None, metadata_directory=None):
            marks = pathlib.Path(os.environ["TEST_BUILD_MARKS"])
            (marks / str(os.getpid())).write_text("started")
            while (marks / "hold").exists():
                time.sleep(0.01)
            name = "tinymodel-1.0-py3-none-any.whl"
            with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
                wheel.writestr("tinymodel.py", "ANSWER = 42")
                wheel.writestr("tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tinymodel\\nVersion: 1.0\\n")
                wheel.writestr("tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
                wheel.writestr("tinymodel-1.0.dist-info/RECORD", "")
            return name
    """,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package whose build leaves a mark and can be held up."""
    folder = tmp_path / "tinymodel"
    folder.mkdir()
    for name, text in WHEEL_SOURCE.items():
        (folder / name).write_text(textwrap.dedent(text))
    (tmp_path / "marks").mkdir()
    return folder


def store_of(tmp_path: Path) -> EnvironmentStore:
    inherited = {
        **os.environ,
        "TEST_BUILD_MARKS": str(tmp_path / "marks"),
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "UV_OFFLINE": "1",
    }
    return EnvironmentStore(tmp_path / "cache", inherited=inherited)


def builds(tmp_path: Path) -> list[Path]:
    return [mark for mark in (tmp_path / "marks").iterdir() if mark.name != "hold"]


def nothing(_fraction: float, _message: str) -> None:
    """No progress wanted."""


def answer(environment: Path) -> str:
    code = "import tinymodel; print(tinymodel.ANSWER)"
    return subprocess.check_output([environment / "bin" / "python", "-c", code], text=True).strip()


async def test_two_builders_share_one_build(tmp_path: Path, source: Path) -> None:
    wanted = Requirements((f"tinymodel @ file://{source}",))
    first, second = await asyncio.gather(
        store_of(tmp_path).ensure(wanted, nothing), store_of(tmp_path).ensure(wanted, nothing)
    )
    assert first == second
    assert answer(first[0]) == "42"
    assert len(builds(tmp_path)) == 1
    again = await store_of(tmp_path).ensure(wanted, nothing)
    assert again == first
    assert len(builds(tmp_path)) == 1


async def test_progress_grows_to_one(tmp_path: Path, source: Path) -> None:
    steps: list[float] = []
    wanted = Requirements((f"tinymodel @ file://{source}",))
    await store_of(tmp_path).ensure(wanted, lambda fraction, _: steps.append(fraction))
    assert steps == sorted(steps)
    assert steps[0] < 0.1
    assert steps[-1] == 1.0
    assert any(0.1 < step < 0.9 for step in steps)


async def test_a_cancelled_build_leaves_no_builder_and_is_built_afresh(tmp_path: Path, source: Path) -> None:
    wanted = Requirements((f"tinymodel @ file://{source}",))
    (tmp_path / "marks" / "hold").touch()
    building = asyncio.create_task(store_of(tmp_path).ensure(wanted, nothing))
    await eventually(lambda: bool(builds(tmp_path)), "the build starts")
    (builder,) = builds(tmp_path)
    who = processes.identity(int(builder.name))
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    (half,) = [one for one in (tmp_path / "cache" / "environments").iterdir() if one.is_dir()]
    assert not is_complete(half)
    (tmp_path / "marks" / "hold").unlink()
    await eventually(lambda: not processes.alive(who), "the builder's child ends")
    (half / "leftover").touch()
    folder, _ = await store_of(tmp_path).ensure(wanted, nothing)
    assert folder == half
    assert not (half / "leftover").exists()
    assert answer(folder) == "42"


async def test_a_builder_killed_half_way_is_followed_by_a_whole_build(tmp_path: Path, source: Path) -> None:
    """The killed builder's own children keep the lock, so that two builds never write to one folder."""
    (tmp_path / "marks" / "hold").touch()
    code = f"""
        import asyncio, os
        from pathlib import Path
        from autoscaler.backends.local.conda import Requirements
        from autoscaler.backends.local.environments import EnvironmentStore
        store = EnvironmentStore(Path({str(tmp_path / "cache")!r}))
        asyncio.run(store.ensure(Requirements(("tinymodel @ file://{source}",)), lambda *_: None))
    """
    env = {
        **os.environ,
        "TEST_BUILD_MARKS": str(tmp_path / "marks"),
        "UV_CACHE_DIR": str(tmp_path / "uv"),
        "UV_OFFLINE": "1",
    }
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(code), env=env, cwd=Path(__file__).parents[2]
    )
    await eventually(lambda: bool(builds(tmp_path)), "the build starts")
    owner.kill()
    await owner.wait()
    messages: list[str] = []
    wanted = Requirements((f"tinymodel @ file://{source}",))
    following = asyncio.create_task(store_of(tmp_path).ensure(wanted, lambda _, text: messages.append(text)))
    await eventually(lambda: bool(messages), "the next builder waits")
    assert len(builds(tmp_path)) == 1
    (tmp_path / "marks" / "hold").unlink()
    folder, _ = await following
    assert answer(folder) == "42"


async def test_an_environment_whose_interpreter_is_gone_is_built_again(tmp_path: Path) -> None:
    folder, _ = await store_of(tmp_path).ensure(Requirements(), nothing)
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python")
    again, _ = await store_of(tmp_path).ensure(Requirements(), nothing)
    assert again == folder
    subprocess.check_call([folder / "bin" / "python", "-c", ""])
    assert (folder / MARKER).is_file()


async def test_a_build_that_fails_says_why_and_leaves_nothing_complete(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed) as failed:
        await store_of(tmp_path).ensure(Requirements((f"gone @ file://{tmp_path}/gone",)), nothing)
    assert "gone" in failed.value.log_tail
    assert "uv pip ended with" in failed.value.message
    assert not any(is_complete(one) for one in (tmp_path / "cache" / "environments").iterdir())


async def test_a_package_that_nobody_has_is_named_in_one_line(tmp_path: Path) -> None:
    store = EnvironmentStore(tmp_path / "cache", inherited=os.environ | {"UV_OFFLINE": "1", "UV_NO_CACHE": "1"})
    with pytest.raises(BuildFailed, match=r"No solution found .*no-such-package-of-ours"):
        await store.ensure(Requirements(("no-such-package-of-ours==9.9",)), nothing)


async def test_a_missing_python_is_replaced_with_a_warning(tmp_path: Path) -> None:
    folder, warnings = await store_of(tmp_path).ensure(Requirements(python="==3.1.*"), nothing)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert warnings == (f"no Python 3.1 is installed on this machine; Python {here} is used instead",)
    said = subprocess.check_output([folder / "bin" / "python", "--version"], text=True)
    assert here in said


# A real scoring script ----------------------------------------------------------------------------------------------

CONDA = """
name: model-env
channels: [conda-forge]
dependencies:
  - python>=3.8
  - libgcc-ng=12
  - pip:
    - azureml-defaults==1.60
"""
SCORE = """
import json, os
from greeting import WORD

def init():
    global weights
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "weights.json")) as file:
        weights = json.load(file)
    print("weights loaded", flush=True)

def run(data):
    return {"answer": json.loads(data)["x"] * weights["slope"], "word": WORD}
"""


@pytest.fixture(scope="module")
def served(backend_cache: Path) -> Path:
    """The cache with the server's environment in it; skips where no package index can be reached."""
    probe = subprocess.run(
        [uv.find_uv_bin(), "pip", "install", "--dry-run", "--python", sys.executable, "--target",
         backend_cache / "none", "azureml-inference-server-http"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip(f"azureml-inference-server-http cannot be had from the package index: {probe.stderr[-300:]}")
    return backend_cache


@pytest.fixture
async def rig(tmp_path: Path, served: Path) -> AsyncIterator[LocalRig]:
    made = LocalRig(tmp_path / "data", served)
    yield made
    await made.clean()


def code_document(rig: LocalRig, score: str = SCORE) -> dict[str, Any]:
    code = add_asset(rig.data, {"score.py": score, "greeting.py": "WORD = 'hello'", "conda.yml": CONDA})
    model = add_asset(rig.data, {"weights.json": '{"slope": 3}'})
    return {
        "code_configuration": {"code": code, "scoring_script": "score.py"},
        "environment": {"conda_file": f"{code}/conda.yml", "image": "mcr.microsoft.com/azureml/minimal"},
        "model": {"path": f"{model}/weights.json"},
    }


async def score(one: ObservedReplica, body: str) -> str:
    reader, writer = await asyncio.open_connection(one.host, one.port)
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return answer.decode()


async def test_a_scoring_script_is_served_from_its_own_environment(rig: LocalRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(code_document(rig), 1)))
    seen = await until(backend, ready(1), 240)
    (one,) = seen.replicas
    assert (
        "libgcc-ng"
        in (await until(backend, lambda o: o.conditions[TARGET].phase is Phase.READY)).conditions[TARGET].message
    )
    answer = await score(one, '{"x": 14}')
    assert answer.startswith("HTTP/1.1 200")
    assert '{"answer": 42, "word": "hello"}' in answer
    async with asyncio.timeout(60):  # its output takes its own way, and may come after its first answer
        while "weights loaded" not in await backend.logs(*TARGET, 200):
            await asyncio.sleep(0.02)
    listening = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{one.port:04X}" in listening
    assert f"00000000:{one.port:04X}" not in listening  # gunicorn's own choice would be every address
    await backend.close(end_replicas=True)


async def test_a_failing_init_is_told_with_its_traceback(rig: LocalRig) -> None:
    broken = SCORE.replace('print("weights loaded", flush=True)', 'raise RuntimeError("no such weights")')
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(code_document(rig, broken), 1)))
    seen = await until(backend, lambda o: o.conditions[TARGET].phase is Phase.FAILED, 240)
    assert seen.conditions[TARGET].reason == "UserScriptInitFailed"
    assert "no such weights" in seen.conditions[TARGET].log_tail
    await backend.close(end_replicas=True)


async def test_nothing_of_a_scoring_replica_survives_its_shim(rig: LocalRig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(code_document(rig), 1)))
    (one,) = (await until(backend, ready(1), 240)).replicas
    shim = backend._replicas[one.id].shim_pid
    below = [processes.identity(pid) for pid in processes.descendants(shim)]
    assert len(below) >= 2  # gunicorn's master and its worker
    await backend.close(end_replicas=False)  # so that nobody but the kernel cleans up
    processes.kill(processes.identity(shim) or (0, 0))
    await eventually(lambda: not any(processes.alive(who) for who in below), "master and worker end")


@pytest.mark.parametrize(
    ("document", "reason", "words"),
    [
        ({"environment": {"image": "vllm"}}, "BadArgument", "tidegate: {command"),
        ({"environment": "azureml:sklearn:1", "code_configuration": {"code": "x", "scoring_script": "s"}},
         "ResourceNotFound", "azureml:sklearn:1"),
        ({"tidegate": {"command": ["true"]}, "model": {"path": f"asset:{'0' * 64}"}}, "ResourceNotFound", "model.path"),
        ({}, "BadArgument", "scoring_script"),
    ],
)  # fmt: skip
async def test_what_cannot_run_here_says_what_to_write_instead(
    tmp_path: Path, backend_cache: Path, document: dict[str, Any], reason: str, words: str
) -> None:
    rig = LocalRig(tmp_path / "data", backend_cache)
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(document, 1)))
    seen = await until(backend, lambda o: o.conditions[TARGET].phase is Phase.FAILED)
    assert seen.conditions[TARGET].reason == reason
    assert words in seen.conditions[TARGET].message
    assert seen.replicas == ()
    await backend.close(end_replicas=True)


async def test_a_failed_build_is_told_and_a_changed_template_retries_at_once(
    tmp_path: Path, backend_cache: Path
) -> None:
    rig = LocalRig(tmp_path / "data", backend_cache)
    conda = add_asset(rig.data, {"requirements.txt": f"gone @ file://{tmp_path}/gone\n"})
    backend = rig.backend()
    await backend.start()
    broken = {**rig.document, "environment": {"conda_file": f"{conda}/requirements.txt"}}
    await backend.apply(plan(wish(broken, 1)))
    seen = await until(backend, lambda o: o.conditions[TARGET].phase is Phase.FAILED)
    assert seen.conditions[TARGET].reason == "ImageBuildFailure"
    assert "gone" in seen.conditions[TARGET].log_tail
    assert "gone" in await backend.logs(*TARGET, 20)
    await backend.apply(plan(wish(rig.document, 1, template="t2")))
    await until(backend, ready(1, "t2"))
    await backend.close(end_replicas=True)
