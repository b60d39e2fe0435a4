"""A deployment's document becomes a command line, variables, folder and probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.backends.local.launch import GUNICORN_SETTINGS, Unlaunchable, asset_path, needs, plan_launch, probes
from router.contract.specs import Probe

ASSETS, ENV = Path("/data/assets"), Path("/cache/env")
A, B = "a" * 64, "b" * 64
OURS = {"PATH": "/usr/bin", "HOME": "/home/u", "SECRET": "s", "LC_ALL": "C.UTF-8", "PYTHONPATH": "/ours"}
CODE = {
    "code_configuration": {"code": f"asset:{A}", "scoring_script": "src/score.py"},
    "environment": {"conda_file": f"asset:{B}/conda.yml"},
    "model": {"path": f"asset:{B}/model.pkl"},
}


def test_a_scoring_script_runs_under_azures_server() -> None:
    launch = plan_launch(CODE, ASSETS, ENV, OURS)
    script = f"/data/assets/{A}/src/score.py"
    assert launch.argv == ("/cache/env/bin/azmlinfsrv", "--entry_script", script, "--port", "{port}")
    assert launch.cwd == f"/data/assets/{A}"
    assert launch.listening_socket
    assert launch.env == {
        "PATH": "/cache/env/bin:/usr/bin",
        "HOME": "/home/u",
        "LC_ALL": "C.UTF-8",
        "VIRTUAL_ENV": "/cache/env",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "AZUREML_MODEL_DIR": f"/data/assets/{B}",
        "AML_APP_ROOT": f"/data/assets/{A}",
        "AZUREML_ENTRY_SCRIPT": script,
        "WORKER_COUNT": "1",
        "GUNICORN_CMD_ARGS": f"--config file:{GUNICORN_SETTINGS}",
    }


def test_the_users_variables_win() -> None:
    document = {**CODE, "environment_variables": {"WORKER_COUNT": 4, "HOME": "/x", "GUNICORN_CMD_ARGS": "--threads 2"}}
    env = plan_launch(document, ASSETS, ENV, OURS).env
    assert env["WORKER_COUNT"] == "4"
    assert env["HOME"] == "/x"
    assert env["GUNICORN_CMD_ARGS"] == f"--config file:{GUNICORN_SETTINGS} --threads 2"


def test_a_command_binds_its_own_port_and_wins_over_the_script() -> None:
    launch = plan_launch({**CODE, "tidegate": {"command": ["serve", "--port={port}"]}}, ASSETS, ENV, OURS)
    assert launch.argv == ("serve", "--port={port}")
    assert not launch.listening_socket
    assert not needs({"tidegate": {"command": ["x"]}}, ASSETS).server


def test_everything_that_must_exist_is_named() -> None:
    wanted = needs(CODE, ASSETS)
    assert wanted.server
    assert wanted.conda_file == ASSETS / B / "conda.yml"
    assert wanted.paths == {
        "environment.conda_file": ASSETS / B / "conda.yml",
        "code_configuration.code": ASSETS / A,
        "code_configuration.scoring_script": ASSETS / A / "src/score.py",
        "model.path": ASSETS / B / "model.pkl",
    }


def test_a_model_folder_is_the_uploaded_root_or_keeps_its_name_inside() -> None:
    def folder(path: str) -> str:
        return plan_launch({**CODE, "model": {"path": path}}, ASSETS, ENV, OURS).env["AZUREML_MODEL_DIR"]

    assert folder(f"asset:{A}") == f"/data/assets/{A}"
    assert folder(f"asset:{A}/model") == f"/data/assets/{A}"


@pytest.mark.parametrize(
    ("document", "reason", "word"),
    [
        ({**CODE, "model": "azureml:m:1"}, "ResourceNotFound", "azureml:m:1"),
        ({**CODE, "model": {"path": "azureml://jobs/1"}}, "ResourceNotFound", "model.path"),
        ({**CODE, "environment": "azureml:e@latest"}, "ResourceNotFound", "environment"),
        ({**CODE, "environment": {"name": "registered", "version": "1"}}, "ResourceNotFound", "registered"),
        ({**CODE, "model": {"path": "/etc/passwd"}}, "BadArgument", "model.path"),
        ({**CODE, "model": {"path": f"asset:{A}/../../x"}}, "BadArgument", "model.path"),
        ({**CODE, "code_configuration": {"code": f"asset:{A}", "scoring_script": "../x.py"}}, "BadArgument", "script"),
        ({"environment": {"image": "triton"}}, "BadArgument", "tidegate: {command"),
    ],
)
def test_what_cannot_run_is_refused_with_the_way_out(document: dict[str, Any], reason: str, word: str) -> None:
    with pytest.raises(Unlaunchable) as refused:
        needs(document, ASSETS)
    assert refused.value.reason == reason
    assert word in refused.value.message


@given(st.text(max_size=90))
def test_no_reference_leads_out_of_the_assets(text: str) -> None:
    for reference in (text, f"asset:{text}", f"asset:{A}/{text}"):
        try:
            found = asset_path(ASSETS, reference, "model.path")
        except Unlaunchable:
            continue
        assert found.is_relative_to(ASSETS)
        assert ".." not in found.parts


def test_probes_have_azures_defaults_and_the_custom_routes() -> None:
    assert probes(CODE).readiness == Probe(10, 10, 2, 1, 30)
    document = {
        "environment": {
            "inference_config": {
                "readiness_route": {"path": "/ready", "port": 8501},
                "liveness_route": {"path": "/live", "port": 8501},
            }
        },
        "readiness_probe": {"period": 3},
        "startup_probe": {"failure_threshold": 99},
    }
    assert probes({"tidegate": {"protocol": "http2"}}).http2
    found = probes(document)
    assert not found.http2
    assert (found.readiness_path, found.liveness_path) == ("/ready", "/live")
    assert found.readiness.period == 3
    assert found.startup == Probe(failure_threshold=99)
