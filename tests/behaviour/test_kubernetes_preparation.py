"""What the init container does, against a real control plane: files fetched whole, environment prepared, failures told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from autoscaler.backends.kubernetes import layout, preparation, serving
from autoscaler.backends.kubernetes.preparation import NotFetched, Place, failure_of, prepare, tell
from autoscaler.backends.local.environments import BuildFailed
from autoscaler.backends.local.launch import Unlaunchable
from router.runtime.archives import RefusedArchive
from tests.support.control_plane import Running, running, tar_of

SCORE = {"code_configuration": {"scoring_script": "score.py"}}


async def uploaded(plane: Running, **files: bytes) -> str:
    body = tar_of({name.replace("__", "."): content for name, content in files.items()})
    digest = hashlib.sha256(body).hexdigest()
    assert (await plane.call("PUT", f"/v1/assets/{digest}", data=body)).status == 201
    return f"asset:{digest}"


def place(folder: Path) -> Place:
    """As in a pod, with a ready-made environment."""
    prebuilt = folder / "prebuilt"
    (prebuilt / "bin").mkdir(parents=True)
    for name in ("azmlinfsrv", "python"):
        (prebuilt / "bin" / name).write_text("#!/bin/sh\n")
        (prebuilt / "bin" / name).chmod(0o755)
    return Place(folder / "app", folder / "app", prebuilt)


async def test_code_and_model_are_fetched_and_the_ready_made_environment_is_used(tmp_path: Path) -> None:
    async with running(tmp_path / "control") as plane:
        code, model = await uploaded(plane, score__py=b"code"), await uploaded(plane, model__pkl=b"x" * 900_000)
        document = {
            "code_configuration": {"code": code, "scoring_script": "score.py"},
            "model": {"path": f"{model}/model.pkl", "name": "tides", "version": 2},
        }
        here = place(tmp_path / "pod")
        for _ in range(2):  # an init container may run again
            note = await asyncio.to_thread(prepare, document, "environment", plane.call.base, here)
            assert note == ""
    assert (here.assets / code.removeprefix("asset:") / "score.py").read_bytes() == b"code"
    linked = here.app / "azureml-models" / "tides" / "2"
    assert (linked / "model.pkl").stat().st_size == 900_000
    assert not os.path.isabs(os.readlink(linked))  # valid wherever the volume is mounted
    told = json.loads((here.app / "launch.json").read_text())
    assert told == {"document": document, "environment": str(here.prebuilt)}


async def test_only_files_for_a_users_image(tmp_path: Path) -> None:
    async with running(tmp_path / "control") as plane:
        model = await uploaded(plane, weights=b"1")
        here = place(tmp_path / "pod")
        await asyncio.to_thread(prepare, {"model": {"path": model}}, "files", plane.call.base, here)
    assert (here.app / "azureml-models" / "model" / "1" / "weights").read_bytes() == b"1"
    assert not (here.app / "launch.json").exists()


async def test_what_the_control_plane_does_not_have_is_named(tmp_path: Path) -> None:
    async with running(tmp_path / "control") as plane:
        document = {"model": {"path": f"asset:{'0' * 64}"}}
        with pytest.raises(NotFetched, match=r"is answered with 404: there is no asset 0000") as raised:
            await asyncio.to_thread(prepare, document, "files", plane.call.base, place(tmp_path / "pod"))
    assert failure_of(raised.value)[0] == "ResourceNotReady"


async def test_a_control_plane_that_is_away_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "PATIENCE_SECONDS", 0.0)
    here = place(tmp_path)
    document = {"model": {"path": f"asset:{'0' * 64}"}}
    with pytest.raises(NotFetched, match=r"Connection refused.*--kubernetes-control-url"):
        await asyncio.to_thread(prepare, document, "files", "http://127.0.0.1:9", here)
    assert list(here.assets.glob("[!.]*")) == []


async def test_an_archive_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "PATIENCE_SECONDS", 0.0)
    body = tar_of({"a": b"1" * 2000, "b": b"2" * 2000})

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        whole = len(body) - 4096  # between two members or behind the last: an archive in itself
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(f"{whole:x}\r\n".encode() + body[:whole] + b"\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        here = place(tmp_path)
        with pytest.raises(NotFetched):
            await asyncio.to_thread(prepare, {"model": {"path": f"asset:{'0' * 64}"}}, "files", url, here)
    assert list(here.assets.glob("[!.]*")) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unlaunchable("BadArgument", "m"), "BadArgument"),
        (BuildFailed("m", "tail"), "ImageBuildFailure"),
        (NotFetched("m"), "ResourceNotReady"),
        (RefusedArchive("m"), "BadArgument"),
        (OSError("disk full"), "InternalServerError"),
    ],
)
def test_failures_in_azures_words(error: Exception, reason: str) -> None:
    assert failure_of(error)[0] == reason


def test_a_termination_message_is_as_long_as_kubernetes_keeps(tmp_path: Path) -> None:
    path = tmp_path / "message"
    tell({"reason": "ImageBuildFailure", "message": "no such package", "log_tail": 'line "x"\n' * 2000}, path)
    told = json.loads(path.read_text())
    assert len(path.read_text()) <= 4096
    assert (told["reason"], told["message"]) == ("ImageBuildFailure", "no such package")
    assert told["log_tail"].endswith('line "x"\n')


def test_the_server_starts_with_the_pods_own_variables(tmp_path: Path) -> None:
    here = place(tmp_path)
    document: dict[str, Any] = {
        "code_configuration": {"code": f"asset:{'a' * 64}", "scoring_script": "score.py"},
        "environment_variables": {"WORD": "w"},
    }
    inherited = {"PATH": "/bin", "AZURE_CLIENT_ID": "me", layout.PORT: "5001", layout.GRACE: "40"}
    argv, env, folder = serving.command({"document": document, "environment": str(here.prebuilt)}, inherited)
    code = f"/var/azureml-app/assets/{'a' * 64}"
    assert argv == [f"{here.prebuilt}/bin/azmlinfsrv", "--entry_script", f"{code}/score.py", "--port", "5001"]
    assert env["AZURE_CLIENT_ID"] == "me"
    assert env["WORD"] == "w"
    assert env["GUNICORN_CMD_ARGS"].endswith("--graceful-timeout 40")
    assert folder == code


def test_a_command_listens_where_the_pod_is_asked(tmp_path: Path) -> None:
    here = place(tmp_path)
    document = {"tidegate": {"command": ["python", "serve.py", "--bind={host}:{port}"]}}
    inherited = {"PATH": "/bin", layout.PORT: "5001", layout.GRACE: "40"}
    argv, _, folder = serving.command({"document": document, "environment": str(here.prebuilt)}, inherited)
    assert argv == ["python", "serve.py", "--bind=0.0.0.0:5001"]
    assert folder == "/tmp"
    with pytest.raises(SystemExit, match="is not there"):
        serving.command({"document": document, "environment": str(tmp_path / "none")}, inherited)
