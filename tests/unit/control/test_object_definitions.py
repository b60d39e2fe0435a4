"""The definitions in deploy/kubernetes/crds are made from the contract, whole and explained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from router.contract import dialect
from router.contract.parts import Probe, RequestSettings
from router.contract.reading import Key, Report
from router.control.resources import crds, explained
from router.control.resources.schema import Schema, schema_of, section_schema

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes" / "crds"


def spec_of(crd: Mapping[str, Any]) -> Schema:
    schema: Schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def paths(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every section and key of a schema, but for the values of plain maps and lists."""
    yield path, schema
    prefix = f"{path}." if path else ""
    for name, inner in schema.get("properties", {}).items():
        yield from paths(inner, prefix + name)
    for key in ("items", "additionalProperties"):
        inner = schema.get(key)
        if isinstance(inner, Mapping) and "properties" in inner:
            yield from paths(inner, f"{prefix}*")


@pytest.mark.parametrize("name", sorted(crds.files()))
def test_the_files_are_what_the_contract_says(name: str) -> None:
    assert (FOLDER / name).read_text() == crds.files()[name], "run `make crds`"


@pytest.mark.parametrize(
    ("made", "keys"),
    [(crds.endpoint_crd(), dialect.ENDPOINT_KEYS), (crds.deployment_crd(), dialect.DEPLOYMENT_KEYS)],
)
def test_a_spec_has_the_keys_of_the_document(made: Any, keys: Any) -> None:
    assert set(spec_of(made)["properties"]) == set(keys)


@pytest.mark.parametrize(
    ("made", "words"),
    [(crds.endpoint_crd(), explained.ENDPOINT), (crds.deployment_crd(), explained.DEPLOYMENT)],
)
def test_every_key_is_explained_and_nothing_else(made: Any, words: Mapping[str, str]) -> None:
    found = dict(paths(spec_of(made)))
    assert [path for path, schema in found.items() if not schema.get("description")] == []
    plain = {path for path in words if path.endswith(".*")}
    assert set(words) - plain <= set(found)


def test_defaults_are_those_of_the_contract() -> None:
    properties = spec_of(crds.deployment_crd())["properties"]
    for key, built in (("request_settings", RequestSettings()), ("readiness_probe", Probe())):
        assert properties[key]["default"] == {}
        for name, schema in properties[key]["properties"].items():
            assert schema["default"] == getattr(built, name)
    assert properties["instance_count"]["default"] == 1
    assert "default" not in properties["startup_probe"]
    assert not any("default" in schema for _, schema in paths(properties["scale_settings"]))


def test_ranges_and_patterns_are_those_of_the_contract() -> None:
    properties = spec_of(crds.deployment_crd())["properties"]
    timeout = properties["request_settings"]["properties"]["request_timeout_ms"]
    assert (timeout["minimum"], timeout["maximum"]) == (1, 300_000)
    percentile = properties["tidegate"]["properties"]["slo"]["properties"]["percentile"]
    assert percentile["exclusiveMinimum"] is percentile["exclusiveMaximum"] is True
    assert properties["name"]["maxLength"] == 32


def test_a_reader_that_does_not_show_what_it_takes_has_no_schema() -> None:
    def secret(_: Report, __: str, found: Any) -> Any:
        return found

    with pytest.raises(TypeError, match="does not show what it takes"):
        schema_of(secret)
    with pytest.raises(TypeError):
        section_schema({"key": Key(secret)}, dict)


def test_a_scaled_deployment_has_what_kubectl_needs() -> None:
    version = crds.deployment_crd()["spec"]["versions"][0]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.instance_count"
    names = crds.deployment_crd()["spec"]["names"]
    assert (names["shortNames"], names["categories"]) == (["od", "odep"], ["tidegate"])


def test_azures_instance_type_is_not_installed_with_the_rest() -> None:
    assert "instancetypes" not in (FOLDER / "kustomization.yaml").read_text().partition("resources:")[2]
