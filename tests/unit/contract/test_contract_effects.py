"""Keys without effect say so, and keys that name local files are found."""

from __future__ import annotations

from typing import Any

import pytest

from router.contract import dialect
from router.contract.azure import (
    LocalFile,
    deployment_from_document,
    endpoint_from_document,
    ineffective,
    local_files,
    missing_files,
)
from router.contract.documents import read_document
from router.contract.ineffective import DEPLOYMENT_ROWS, ENDPOINT_ROWS
from tests.support import contract_documents as texts


def fields(read: Any, text: Any) -> Any:
    return {problem.field for problem in ineffective(read(read_document(text).document))}


def test_an_endpoint_says_which_keys_have_no_effect_yet() -> None:
    said = fields(endpoint_from_document, texts.MANAGED_ENDPOINT)
    assert said == {"identity", "public_network_access"}
    assert fields(endpoint_from_document, texts.KUBERNETES_ENDPOINT) == {"compute", "identity"}


def test_a_deployment_says_which_keys_have_no_effect_yet() -> None:
    assert fields(deployment_from_document, texts.MANAGED_DEPLOYMENT) == {
        "environment.image", "model_mount_path", "instance_type", "app_insights_enabled", "data_collector",
        "egress_public_network_access", "tidegate.slo",
    }  # fmt: skip
    assert fields(deployment_from_document, texts.KUBERNETES_DEPLOYMENT) == {
        "type", "model", "environment", "instance_type", "resources",
    }  # fmt: skip
    assert fields(deployment_from_document, texts.BUILT_DEPLOYMENT) == {"environment.build"}


def test_defaults_and_plain_documents_say_nothing() -> None:
    assert fields(endpoint_from_document, "{name: fraud, public_network_access: enabled, auth_mode: key}") == set()
    assert fields(deployment_from_document, texts.SMALL_DEPLOYMENT) == set()
    written = "{name: blue, endpoint_name: fraud, app_insights_enabled: false, instance_count: 2}"
    assert fields(deployment_from_document, written) == set()


def test_a_count_beside_target_utilization_says_that_it_does_nothing() -> None:
    text = "{name: blue, endpoint_name: fraud, instance_count: 2, scale_settings: {type: target_utilization}}"
    assert fields(deployment_from_document, text) == {"instance_count"}


@pytest.mark.parametrize("row", [*ENDPOINT_ROWS, *DEPLOYMENT_ROWS], ids=lambda row: row.field)
def test_every_row_names_a_known_key_in_a_sentence(row: Any) -> None:
    keys = dialect.ENDPOINT_KEYS if row in ENDPOINT_ROWS else dialect.DEPLOYMENT_KEYS
    assert row.field.split(".")[0] in keys
    assert len(row.sentence.split()) > 3


def test_local_files_of_a_deployment() -> None:
    assert local_files(read_document(texts.MANAGED_DEPLOYMENT).document) == [
        LocalFile("code_configuration.code", "../../model-1/onlinescoring/", "folder"),
        LocalFile("model.path", "../../model-1/model/", "any"),
        LocalFile("environment.conda_file", "../../model-1/environment/conda.yaml", "file"),
    ]
    assert local_files(read_document(texts.SMALL_DEPLOYMENT).document) == [
        LocalFile("model", "models/one", "any"),
        LocalFile("environment", "conda.yml", "file"),
    ]
    assert local_files(read_document(texts.BUILT_DEPLOYMENT).document) == [
        LocalFile("model", "./model.pkl", "any"),
        LocalFile("environment.build.path", "docker", "folder"),
    ]


@pytest.mark.parametrize(
    "document",
    [
        {}, {"model": None, "environment": 3, "code_configuration": []}, {"model": {"path": ["x"]}},
        {"model": "azureml:m:1", "environment": "azureml:e:1", "code_configuration": {"code": "azureml:c:1"}},
        {"model": {"path": "asset:" + "0" * 64}, "environment": {"conda_file": "https://example.com/conda.yml"}},
    ],
)  # fmt: skip
def test_what_lies_elsewhere_is_no_local_file(document: Any) -> None:
    assert local_files(document) == []


def test_a_missing_file_is_a_problem_with_its_place() -> None:
    located = read_document(texts.SMALL_DEPLOYMENT, file="violet.yml")
    missing = [one for one in local_files(located.document) if one.field == "model"]
    (problem,) = missing_files(missing, lines=located.lines, file=located.file)
    assert (problem.file, problem.line, problem.field, problem.value) == ("violet.yml", 3, "model", "models/one")
    assert missing_files([]) == ()
