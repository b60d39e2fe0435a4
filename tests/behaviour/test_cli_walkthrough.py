"""Azure's blue/green walk-through, its eleven steps as printed, with `az ml` replaced by `tidegate` and real models."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uv

from tests.support.cli_tree import UpTree, processes_naming

SCORE = """\
import json, os

def init():
    global answer
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "answer.txt")) as file:
        answer = file.read().strip()
    print("init of", answer, flush=True)

def run(raw_data):
    data = json.loads(raw_data)["data"]
    return {"model": answer, "sum": sum(data)}
"""
DEPLOYMENT = """\
$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json
name: {name}
endpoint_name: walk
model:
  path: ./model-{name}/model
code_configuration:
  code: ./onlinescoring
  scoring_script: score.py
environment:
  conda_file: ./environment/conda.yaml
  image: mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest
instance_type: Standard_DS3_v2
instance_count: 1
readiness_probe:
  initial_delay: 1
  period: 1
"""
FILES = {
    "endpoint.yml": "$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json\n"
    "name: my-endpoint\nauth_mode: key\n",
    "blue-deployment.yml": DEPLOYMENT.format(name="blue"),
    "green-deployment.yml": DEPLOYMENT.format(name="green"),
    "model-blue/model/answer.txt": "blue",
    "model-green/model/answer.txt": "green",
    "onlinescoring/score.py": SCORE,
    "environment/conda.yaml": "name: walk\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n"
    "  - pip:\n      - azureml-inference-server-http\n",
    "sample-request.json": '{"data": [1, 2, 3]}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "example" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "example"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[UpTree]:
    probe = subprocess.run(
        [uv.find_uv_bin(), "pip", "install", "--dry-run", "--python", sys.executable, "--target",
         tmp_path / "none", "azureml-inference-server-http"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip(f"azureml-inference-server-http cannot be had from the package index: {probe.stderr[-300:]}")
    tree = UpTree(tmp_path, "--workers", "2", "--cache", str(tmp_path / "cache"))
    try:
        yield tree
        assert tree.end() == 0, tree.words()
        assert processes_naming(str(tmp_path)) == []
    finally:
        tree.kill()


def post(url: str, body: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.timeout(600)
def test_the_eleven_steps_run_as_printed(tree: UpTree, folder: Path) -> None:
    def tidegate(words: str, *more: str) -> str:
        return tree.run(*words.split(), *more, cwd=folder).stdout

    endpoint, sample = "walk", ("--request-file", "sample-request.json")
    created = json.loads(tidegate(f"online-endpoint create --name {endpoint} -f endpoint.yml"))
    assert (created["name"], created["provisioning_state"]) == ("walk", "Succeeded")

    blue = f"online-deployment create --name blue --endpoint-name {endpoint} -f blue-deployment.yml --all-traffic"
    assert json.loads(tidegate(blue))["provisioning_state"] == "Succeeded"
    assert json.loads(tidegate(f"online-endpoint show -n {endpoint} --query traffic")) == {"blue": 100}

    answer = json.loads(tidegate(f"online-endpoint invoke --name {endpoint}", *sample))
    assert answer == {"model": "blue", "sum": 6}

    tidegate(f"online-deployment update --name blue --endpoint-name {endpoint} --set instance_count=2")
    replicas = json.loads(tidegate(f"online-deployment show -n blue -e {endpoint} --query replicas"))
    assert replicas["ready"] == replicas["desired"] == 2

    tidegate(f"online-deployment create --name green --endpoint-name {endpoint} -f green-deployment.yml")
    traffic = json.loads(tidegate(f"online-endpoint show -n {endpoint} --query traffic"))
    assert traffic == {"blue": 100, "green": 0}

    answer = json.loads(tidegate(f"online-endpoint invoke --name {endpoint} --deployment-name green", *sample))
    assert answer == {"model": "green", "sum": 6}

    key = tidegate(f"online-endpoint get-credentials -n {endpoint} -o tsv --query primaryKey").removesuffix("\n")
    uri = tidegate(f"online-endpoint show -n {endpoint} -o tsv --query scoring_uri").removesuffix("\n")
    headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": "green"}
    assert post(uri, '{"data": [4]}', headers) == {"model": "green", "sum": 4}

    tidegate(f"online-endpoint update --name {endpoint} --mirror-traffic", "green=10")
    assert json.loads(tidegate(f"online-endpoint show -n {endpoint} --query mirror_traffic"))["green"] == 10
    tidegate(f"online-endpoint update --name {endpoint} --mirror-traffic", "green=0")
    assert not any(json.loads(tidegate(f"online-endpoint show -n {endpoint} --query mirror_traffic")).values())

    tidegate(f"online-endpoint update --name {endpoint} --traffic", "blue=90 green=10")
    models = [post(uri, '{"data": [1]}', {"Authorization": f"Bearer {key}"})["model"] for _ in range(40)]
    assert 2 <= models.count("green") <= 6  # exact to within one request per worker
    tidegate(f"online-endpoint update --name {endpoint} --traffic", "blue=0 green=100")
    assert json.loads(tidegate(f"online-endpoint invoke --name {endpoint}", *sample))["model"] == "green"

    assert "init of green" in tidegate(f"online-deployment get-logs --name green --endpoint {endpoint} --lines 200")
    assert "walk" in tidegate("status")
    assert tidegate(f"online-deployment delete --name blue --endpoint {endpoint} --yes --no-wait") == ""
    assert tidegate(f"online-endpoint delete --name {endpoint} --yes --no-wait") == ""
