"""What each command sends, prints and returns, against a scripted control plane on a real socket."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.cli import client
from router.cli.main import main
from tests.support.cli_control_plane import Answer, FakeControlPlane, Request, fake_control_plane

DEPLOYMENT = """\
name: blue
endpoint_name: shop
model:
  path: ./model
code_configuration:
  code: ./src
  scoring_script: score.py
environment:
  conda_file: ./conda.yml
instance_type: Standard_DS3_v2
instance_count: 1
"""
E = "/v1/endpoints/shop"
D = f"{E}/deployments/blue"
SHOWN: dict[str, Any] = {
    "name": "shop",
    "auth_mode": "key",
    "kind": "managed",
    "revision": 4,
    "provisioning_state": "Succeeded",
    "scoring_uri": "http://127.0.0.1:1/endpoints/shop/score",
    "openapi_uri": "http://127.0.0.1:1/endpoints/shop/swagger.json",
    "traffic": {"blue": 100, "green": 0},
    "mirror_traffic": {},
}
OPERATION = {"Azure-AsyncOperation": "http://elsewhere:99/v1/operations/7"}


def operation(status: str = "Succeeded", **more: Any) -> Answer:
    return Answer(body={"id": "7", "status": status, "phase": status, "progress": 1.0, "message": "", **more})


def refused(status: int, code: str, message: str = "no", **more: Any) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message, **more}})


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeControlPlane]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.001)
    with fake_control_plane() as plane:
        monkeypatch.setenv("TIDEGATE_URL", plane.url)
        plane.on("GET", E, Answer(body=SHOWN, headers={"ETag": '"4"'}))
        plane.on("GET", "/v1/operations/7", operation())
        yield plane


@pytest.fixture
def project(tmp_path: Path, plane: FakeControlPlane) -> Path:
    """A deployment's folder, uploads accepted."""
    folder = tmp_path / "project"
    for name, text in {"src/score.py": "def init(): ...", "model/weights.txt": "w", "conda.yml": "name: x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "blue.yml").write_text(DEPLOYMENT)
    plane.on("PUT", D, Answer(201, {"name": "blue"}, OPERATION))
    plane.on("GET", D, Answer(body={"name": "blue", "provisioning_state": "Succeeded"}))
    answer = plane.answer

    def with_assets(request: Request) -> Answer:
        told = answer(request)
        return Answer(201, {}) if request.method == "PUT" and "/assets/" in request.path else told

    plane.answer = with_assets  # type: ignore[method-assign]
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


Capture = pytest.CaptureFixture[str]


# endpoints --------------------------------------------------------------------------------------------------------


def test_create_sends_the_file_under_the_name_of_the_flag(plane: FakeControlPlane, capsys: Capture) -> None:
    Path("endpoint.yml").write_text("name: other\nauth_mode: key\n")
    plane.on("PUT", E, Answer(201, SHOWN, OPERATION))
    status, out, _ = run(capsys, "online-endpoint", "create", "--name", "shop", "-f", "endpoint.yml")
    assert status == 0
    assert json.loads(out)["scoring_uri"] == SHOWN["scoring_uri"]
    (sent,) = plane.sent("PUT", E)
    assert sent.json() == {"name": "shop", "auth_mode": "key"}
    assert sent.headers["if-none-match"] == "*"


def test_create_over_an_existing_endpoint_keeps_its_traffic(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("PUT", E, refused(409, "Conflict"), Answer(200, SHOWN, OPERATION))
    status, _, err = run(capsys, "online-endpoint", "create", "-n", "shop", "--set", "description=new")
    assert status == 0
    assert "exists" in err
    second = plane.sent("PUT", E)[1]
    assert second.json() == {"name": "shop", "description": "new", "traffic": {"blue": 100}}
    assert second.headers["if-match"] == '"4"'


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["--traffic", "blue=90 green=10"], {"traffic": {"blue": 90, "green": 10}}),
        (["--traffic", "blue=0 green=100"], {"traffic": {"green": 100}}),
        (["--traffic", "Blue=90", "Green=10"], {"traffic": {"blue": 90, "green": 10}}),
        (["--mirror-traffic", "green=10"], {"traffic": {"blue": 100}, "mirror_traffic": {"green": 10}}),
        (["--mirror-traffic", "green=0"], {"traffic": {"blue": 100}, "mirror_traffic": {}}),
        (["--set", "tags.team=a"], {"traffic": {"blue": 100}, "tags": {"team": "a"}}),
    ],
)
def test_update_is_get_change_and_conditional_put(
    plane: FakeControlPlane, capsys: Capture, words: list[str], changed: dict[str, Any]
) -> None:
    plane.on("PUT", E, Answer(200, SHOWN, OPERATION))
    status, _, _ = run(capsys, "online-endpoint", "update", "--name", "shop", *words)
    assert status == 0
    (sent,) = plane.sent("PUT", E)
    assert sent.json() == {"name": "shop", "auth_mode": "key", **changed}
    assert sent.headers["if-match"] == '"4"'


def test_a_lost_race_is_run_again_on_what_the_winner_wrote(plane: FakeControlPlane, capsys: Capture) -> None:
    winner = {**SHOWN, "revision": 5, "description": "theirs"}
    plane.on("GET", E, Answer(body=SHOWN, headers={"ETag": '"4"'}), Answer(body=winner, headers={"ETag": '"5"'}))
    plane.on("PUT", E, refused(412, "PreconditionFailed"), Answer(200, winner, OPERATION))
    status, _, _ = run(capsys, "online-endpoint", "update", "-n", "shop", "--traffic", "green=100")
    assert status == 0
    last = plane.sent("PUT", E)[-1]
    assert last.headers["if-match"] == '"5"'
    assert last.json() == {
        "name": "shop", "auth_mode": "key", "description": "theirs", "traffic": {"green": 100},
    }  # fmt: skip


def test_an_endless_race_gives_up_with_the_servers_words(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("PUT", E, refused(412, "PreconditionFailed", "revision 9 is newer"))
    status, _, err = run(capsys, "online-endpoint", "update", "-n", "shop", "--traffic", "green=100")
    assert (status, err) == (1, "error: (PreconditionFailed) revision 9 is newer\n")
    assert len(plane.sent("PUT", E)) == client.CONFLICT_RETRIES


def test_a_wrong_sum_is_refused_before_anything_is_sent(plane: FakeControlPlane, capsys: Capture) -> None:
    status, _, err = run(capsys, "online-endpoint", "update", "-n", "shop", "--traffic", "blue=90 green=20")
    assert status == 1
    assert "110" in err
    assert not plane.sent("PUT", E)


def test_every_problem_of_a_file_is_one_line(plane: FakeControlPlane, capsys: Capture) -> None:
    Path("endpoint.yml").write_text("name: shop\nauth_mod: key\ntraffic:\n  blue: 50\n")
    status, _, err = run(capsys, "online-endpoint", "create", "-f", "endpoint.yml")
    assert status == 1
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: endpoint.yml:2: auth_mod:")
    assert "'auth_mode'" in lines[0]
    assert lines[1].startswith("error: endpoint.yml:3: traffic:")
    assert not plane.requests


def test_credentials_come_bare(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("POST", f"{E}/keys/list", Answer(body={"primaryKey": "p1", "secondaryKey": "s1"}))
    words = ("online-endpoint", "get-credentials", "-n", "shop")
    assert run(capsys, *words, "-o", "tsv", "--query", "primaryKey") == (0, "p1\n", "")
    assert json.loads(run(capsys, *words)[1]) == {"primaryKey": "p1", "secondaryKey": "s1"}


def test_regenerating_names_the_key(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("POST", f"{E}/keys/regenerate", Answer(body={"primaryKey": "p1", "secondaryKey": "s2"}))
    status, out, _ = run(capsys, "online-endpoint", "regenerate-keys", "-n", "shop", "--key-type", "secondary")
    assert status == 0
    assert json.loads(out)["secondaryKey"] == "s2"
    assert plane.requests[-1].json() == {"key_type": "secondary"}


def test_deleting_needs_a_yes(plane: FakeControlPlane, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    plane.on("DELETE", E, Answer(202, None, OPERATION))
    status, _, err = run(capsys, "online-endpoint", "delete", "-n", "shop")
    assert status == 1
    assert "--yes" in err
    assert not plane.requests
    status, out, _ = run(capsys, "online-endpoint", "delete", "-n", "shop", "--yes", "--only-show-errors")
    assert (status, out) == (0, "")
    assert [r.path for r in plane.requests] == [E, "/v1/operations/7"]


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_a_terminal_is_asked(
    plane: FakeControlPlane, capsys: Capture, monkeypatch: pytest.MonkeyPatch, typed: str, status: int
) -> None:
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    plane.on("DELETE", E, Answer(202, None, OPERATION))
    assert run(capsys, "online-endpoint", "delete", "-n", "shop", "--no-wait")[0] == status
    assert len(plane.sent("DELETE", E)) == (1 if status == 0 else 0)


def test_revisions_and_rollback(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("GET", f"{E}/revisions", Answer(body={"value": [{"revision": 4}, {"revision": 3}]}))
    plane.on("POST", f"{E}/rollback", Answer(200, SHOWN))
    assert run(capsys, "online-endpoint", "revisions", "-n", "shop", "--query", "[0].revision", "-o", "tsv")[1] == "4\n"
    assert run(capsys, "online-endpoint", "rollback", "-n", "shop", "--revision", "3")[0] == 0
    assert plane.sent("POST", f"{E}/rollback")[0].json() == {"revision": 3}


# deployments ------------------------------------------------------------------------------------------------------


def test_files_are_uploaded_before_the_document_that_names_them(
    plane: FakeControlPlane, project: Path, capsys: Capture
) -> None:
    status, out, err = run(capsys, "online-deployment", "create", "-f", str(project / "blue.yml"), "--all-traffic")
    assert status == 0, err
    assert json.loads(out)["name"] == "blue"
    kinds = [(r.method, r.path.split("/")[2]) for r in plane.requests if r.method in ("HEAD", "PUT")]
    assert kinds == [("HEAD", "assets"), ("PUT", "assets")] * 3 + [("PUT", "endpoints")]
    (sent,) = plane.sent("PUT", D)
    assert sent.path == f"{D}?all_traffic=true"
    document = sent.json()
    uploads = {r.path.rsplit("/", 1)[1]: r.body for r in plane.requests if r.method == "PUT" and "assets" in r.path}
    code = document["code_configuration"]["code"].removeprefix("asset:")
    with tarfile.open(fileobj=io.BytesIO(uploads[code])) as tar:
        assert tar.getnames() == ["score.py"]
    conda, _, name = document["environment"]["conda_file"].removeprefix("asset:").partition("/")
    assert conda in uploads
    assert name == "conda.yml"
    model, _, name = document["model"]["path"].removeprefix("asset:").partition("/")
    with tarfile.open(fileobj=io.BytesIO(uploads[model])) as tar:  # AZUREML_MODEL_DIR/model/weights.txt, as in Azure
        assert (name, tar.getnames()) == ("model", ["model", "model/weights.txt"])


def test_what_is_there_already_is_not_sent_again(plane: FakeControlPlane, project: Path, capsys: Capture) -> None:
    create = ("online-deployment", "create", "-f", str(project / "blue.yml"))
    assert run(capsys, *create)[0] == 0
    for request in [r for r in plane.requests if r.method == "HEAD"]:
        plane.on("HEAD", request.path, Answer())
    plane.requests.clear()
    assert run(capsys, *create)[0] == 0
    assert not [r for r in plane.requests if r.method == "PUT" and "assets" in r.path]


def test_missing_files_and_wrong_keys_are_found_together(
    plane: FakeControlPlane, project: Path, capsys: Capture
) -> None:
    text = DEPLOYMENT.replace("./conda.yml", "./conda.yaml").replace("score.py", "scores.py")
    (project / "blue.yml").write_text(text + "instance_cuont: 3\n")
    status, _, err = run(capsys, "online-deployment", "create", "-f", str(project / "blue.yml"))
    assert status == 1
    file = project / "blue.yml"
    starts = [line.partition(" ")[2].rpartition(": ")[0] for line in err.splitlines()]
    assert len(starts) == 3, err
    assert f"error: {file}:12: instance_cuont: " in err
    assert f"error: {file}:9: environment.conda_file: " in err
    assert f"error: {file}:7: code_configuration.scoring_script: " in err
    assert not [r for r in plane.requests if r.method != "GET"]


def test_what_the_server_finds_wrong_gets_its_line(plane: FakeControlPlane, project: Path, capsys: Capture) -> None:
    details = [{"field": "instance_type", "message": "a type that exists", "value": "Standard_DS3_v2"}]
    plane.on("PUT", D, refused(400, "BadArgument", "instance_type: …", details=details))
    status, _, err = run(capsys, "online-deployment", "create", "-f", str(project / "blue.yml"))
    assert status == 1
    assert f"error: {project / 'blue.yml'}:10: instance_type: a type that exists" in err


def test_keys_without_effect_are_told_once_with_their_line(
    plane: FakeControlPlane, project: Path, capsys: Capture
) -> None:
    (project / "blue.yml").write_text(DEPLOYMENT + "app_insights_enabled: true\n")
    create = ("online-deployment", "create", "-f", str(project / "blue.yml"), "--no-wait")
    status, _, err = run(capsys, *create)
    assert status == 0
    assert err.count(f"warning: {project / 'blue.yml'}:12: app_insights_enabled: has no effect yet") == 1
    assert "warning" not in run(capsys, *create, "--only-show-errors")[2]


def test_updating_one_value_sends_the_rest_unchanged(plane: FakeControlPlane, capsys: Capture) -> None:
    reference = "asset:" + "0" * 64
    document = {
        "name": "blue", "endpoint_name": "shop", "instance_type": "any", "instance_count": 1,
        "code_configuration": {"code": reference, "scoring_script": "score.py"},
    }  # fmt: skip
    shown = {**document, "provisioning_state": "Succeeded", "phase": "Ready", "replicas": {}, "revision": 4}
    plane.on("GET", D, Answer(body=shown, headers={"ETag": '"4"'}))
    plane.on("PUT", D, Answer(200, shown, OPERATION))
    words = ("online-deployment", "update", "--name", "blue", "--endpoint-name", "shop", "--set", "instance_count=2")
    assert run(capsys, *words)[0] == 0
    (sent,) = plane.sent("PUT", D)
    assert sent.json() == {**document, "instance_count": 2}
    assert sent.headers["if-match"] == '"4"'


def test_a_failed_operation_prints_why_and_the_log(plane: FakeControlPlane, project: Path, capsys: Capture) -> None:
    error = {"code": "UserScriptInitFailed", "message": "init() raised", "log_tail": "Traceback\nKeyError: 'w'"}
    plane.on("GET", "/v1/operations/7", operation("InProgress"), operation("Failed", error=error))
    status, out, err = run(capsys, "online-deployment", "create", "-f", str(project / "blue.yml"))
    assert (status, out) == (1, "")
    assert err.endswith(
        "error: (UserScriptInitFailed) init() raised\nlast lines of the log:\n  Traceback\n  KeyError: 'w'\n"
    )


def test_a_superseded_operation_is_no_success(plane: FakeControlPlane, project: Path, capsys: Capture) -> None:
    plane.on("GET", "/v1/operations/7", operation("Canceled", message="revision 6 took its place"))
    status, _, err = run(capsys, "online-deployment", "create", "-f", str(project / "blue.yml"))
    assert status == 1
    assert "(OperationCanceled) revision 6 took its place" in err


def test_progress_is_one_line_per_step_where_there_is_no_terminal(
    plane: FakeControlPlane, project: Path, capsys: Capture
) -> None:
    steps = [("Building", 0.2), ("Building", 0.21), ("Starting", 0.6)]
    answers = [operation("InProgress", phase=phase, progress=part, message="") for phase, part in steps]
    plane.on("GET", "/v1/operations/7", *answers, operation(phase="Ready"))
    _, _, err = run(capsys, "online-deployment", "create", "-f", str(project / "blue.yml"))
    told = [line for line in err.splitlines() if line.startswith("deployment blue: ")]
    assert told == [f"deployment blue: {step}" for step in ("Building 20%", "Starting 60%", "Ready 100%")]


def test_no_wait_does_not_ask_for_the_operation(plane: FakeControlPlane, project: Path, capsys: Capture) -> None:
    assert run(capsys, "online-deployment", "create", "-f", str(project / "blue.yml"), "--no-wait")[0] == 0
    assert not plane.sent("GET", "/v1/operations/7")


def test_logs_are_printed_as_they_are(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("POST", f"{D}/logs", Answer(body={"content": "a\n[b] c"}))
    words = ("online-deployment", "get-logs", "-n", "blue", "-e", "shop", "--lines", "2")
    assert run(capsys, *words) == (0, "a\n[b] c\n", "")
    assert plane.requests[-1].json() == {"tail": 2}


# the rest ---------------------------------------------------------------------------------------------------------


def test_events_are_lines(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("GET", "/v1/events/decisions", Answer(body=b'{"offset": 1}\n\n{"offset": 2}\n'))
    assert run(capsys, "events", "decisions", "--tail", "2")[1] == '{"offset": 1}\n{"offset": 2}\n'
    assert plane.requests[-1].path == "/v1/events/decisions?follow=false&tail=2"


def test_status_is_a_plain_table_where_there_is_no_terminal(plane: FakeControlPlane, capsys: Capture) -> None:
    load = {"requests_per_second": 12.25, "in_flight": 3, "queued": 0, "p50_ms": 1.5, "p99_ms": None}
    blue = {
        "name": "blue", "weight": 90, "mirror_percent": 0, "phase": "Ready", **load,
        "replicas": {"observed": 2, "ready": 1, "desired": 2}, "shadows": {"compared": 0, "equal": 0, "dropped": 0},
    }  # fmt: skip
    green = {
        **blue,
        "name": "green",
        "weight": 0,
        "mirror_percent": 10,
        "shadows": {"compared": 9, "equal": 8, "dropped": 1},
    }
    told = {"endpoints": [{"name": "shop", "revision": 4, **load, "deployments": [blue, green]}]}
    plane.on("GET", "/v1/status", Answer(body=told))
    status, out, _ = run(capsys, "status")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[2] == ["shop", "revision", "4", "12.2", "3", "0", "1.5", "–"]
    assert lines[3] == ["blue", "90", "%", "Ready", "2/1/2", "12.2", "3", "0", "1.5", "–"]
    assert lines[4] == ["green", "0", "%", "10", "%", "Ready", "2/1/2", "12.2", "3", "0", "1.5", "–", "8/9", "(1)"]
    assert json.loads(run(capsys, "status", "-o", "json")[1]) == told
    assert run(capsys, "status", "--query", "endpoints[].name", "-o", "tsv")[1] == "shop\n"


def test_nobody_there_is_one_sentence(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as taken:  # bound, not listening: connecting is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("TIDEGATE_URL", url)
        status, out, err = run(capsys, "online-endpoint", "list")
    assert (status, out) == (1, "")
    assert err == (
        f"error: (Unreachable) cannot reach the control plane at {url} (connection refused): "
        "start it with `tidegate up`, or set TIDEGATE_URL to where it runs\n"
    )


@pytest.mark.parametrize("url", ["localhost:8081", "ftp://x", "http://", "http://x:port"])
def test_an_address_that_is_none_is_named(url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_URL", url)
    status, _, err = run(capsys, "online-endpoint", "list")
    assert status == 1
    assert repr(url) in err


def test_a_server_that_is_no_control_plane_is_told_apart(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("GET", "/v1/endpoints", Answer(body=b"<html>"))
    assert "no JSON" in run(capsys, "online-endpoint", "list")[2]
    plane.on("GET", "/v1/endpoints", Answer(502, b"Bad Gateway"))
    assert run(capsys, "online-endpoint", "list")[2] == "error: (Http502) Bad Gateway\n"


def test_flags_of_az_are_noted_and_ignored(plane: FakeControlPlane, capsys: Capture) -> None:
    plane.on("GET", "/v1/endpoints", Answer(body={"value": []}))
    status, out, err = run(capsys, "online-endpoint", "list", "-g", "group", "-w", "space", "--subscription", "id")
    assert (status, out) == (0, "[]\n")
    assert [line.split()[0] for line in err.splitlines()] == ["--resource-group", "--workspace-name", "--subscription"]
    assert run(capsys, "online-endpoint", "list", "-g", "group", "--only-show-errors")[2] == ""


def test_local_is_refused(plane: FakeControlPlane, capsys: Capture) -> None:
    status, _, err = run(capsys, "online-endpoint", "list", "--local")
    assert status == 2
    assert "--local" in err
    assert not plane.requests


# assets -----------------------------------------------------------------------------------------------------------


def test_an_upload_prints_what_to_write(plane: FakeControlPlane, project: Path, capsys: Capture) -> None:
    words = ("asset", "upload", str(project / "src"), "--query", "reference", "-o", "tsv")
    status, out, _ = run(capsys, *words)
    assert status == 0
    (sent,) = [one for one in plane.requests if one.method == "PUT"]
    assert out.strip() == f"asset:{sent.path.rpartition('/')[2]}"
    with tarfile.open(fileobj=io.BytesIO(sent.body)) as tar:
        assert tar.getnames() == ["score.py"]


def test_a_model_keeps_its_folder(plane: FakeControlPlane, project: Path, capsys: Capture) -> None:
    status, out, _ = run(capsys, "asset", "upload", "--model", str(project / "model"))
    assert status == 0
    assert json.loads(out)["reference"].endswith("/model")


def test_an_upload_of_nothing_says_so(plane: FakeControlPlane, capsys: Capture) -> None:
    status, _, err = run(capsys, "asset", "upload", "nowhere")
    assert status == 1
    assert "path: a file or folder that exists; found 'nowhere'" in err
