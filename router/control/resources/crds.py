"""The CustomResourceDefinitions and what belongs to them, whole. `python -m router.control.resources.crds FOLDER` writes them as YAML files.

The files in `deploy/kubernetes/crds` are what this module makes; a test holds that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from router.contract.dialect import DEPLOYMENT_KEYS, ENDPOINT_KEYS
from router.contract.specs import DeploymentSpec, EndpointSpec
from router.control.resources import explained, validations
from router.control.resources.kinds import DEPLOYMENT, ENDPOINT, VERSION, Kind
from router.control.resources.policy import policies
from router.control.resources.schema import TEXT_OR_NUMBER, Schema, section_schema

Manifest = dict[str, Any]
HEADER = "# Made by `make crds` from router/contract and router/control/resources. Do not change it here.\n"

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "format": "int32", "minimum": 0}
_CONDITION: Schema = {
    "type": "object",
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string", "maxLength": 1024, "description": "One word, for programs."},
        "message": {"type": "string", "maxLength": 32768, "description": "What is so and what to do, for people."},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
    },
}
_STATUS: Mapping[str, Schema] = {
    "observedGeneration": {
        "type": "integer",
        "format": "int64",
        "description": "The generation of the object that this status is about.",
    },
    "revision": {
        "type": "integer",
        "format": "int64",
        "description": "The endpoint's revision that the object agrees with, as REST and the command line show it.",
    },
    "conditions": {
        "type": "array",
        "items": _CONDITION,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "description": "Accepted: the spec is valid and is part of the revision. Progressing: something is still under"
        " way. Ready: requests are answered as the spec says.",
    },
    "scoring_uri": {**_TEXT, "description": "Where requests go."},
}
_ENDPOINT_STATUS: Mapping[str, Schema] = {
    **_STATUS,
    "traffic": {**_TEXT, "description": "The split that is in force, in words."},
    "mirror": {**_TEXT, "description": "What is mirrored, in words."},
    "ready": {**_TEXT, "description": "Ready replicas of desired ones, over all deployments."},
    "keys_secret": {**_TEXT, "description": "Name of the Secret with both keys."},
}
_DEPLOYMENT_STATUS: Mapping[str, Schema] = {
    **_STATUS,
    "replicas": {**_COUNT, "description": "Replicas that there are, whatever their state."},
    "ready": {**_COUNT, "description": "Replicas that get requests."},
    "desired": {**_COUNT, "description": "Replicas that there should be."},
    "selector": {**_TEXT, "description": "Selects the pods of the replicas, for the scale subresource."},
    "weight": {**_COUNT, "description": "Percent of the live traffic."},
    "mirror": {"type": "number", "description": "Percent of the live traffic that is copied to it."},
    "phase": {**_TEXT, "description": "What is being done for it."},
    "reason": {**_TEXT, "description": "Why it is not ready, in one word of Azure's."},
    "message": {**_TEXT, "description": "Why it is not ready, and what to do."},
    "files": {
        "type": "object",
        "additionalProperties": _TEXT,
        "description": "Key of the spec that names a ConfigMap -> the asset that was made of it.",
    },
}


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False, words: str = "") -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    column |= {"description": words} if words else {}
    return column | ({"priority": 1} if wide else {})


_AGE = _column("Age", ".metadata.creationTimestamp", "date")
_REASON = '.status.conditions[?(@.type=="Ready")].reason'
_MESSAGE = '.status.conditions[?(@.type=="Ready")].message'
_ENDPOINT_COLUMNS = (
    _column("Traffic", ".status.traffic", words="Percent of the live traffic, by deployment."),
    _column("Mirror", ".status.mirror", words="Percent of the live traffic that is copied, by deployment."),
    _column("Revision", ".status.revision", "integer"),
    _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
    _column("Replicas", ".status.ready", words="Ready replicas of desired ones."),
    _column("URL", ".status.scoring_uri"),
    _column("Reason", _REASON, wide=True),
    _column("Message", _MESSAGE, wide=True),
    _AGE,
)
_DEPLOYMENT_COLUMNS = (
    _column("Endpoint", ".spec.endpoint_name"),
    _column("Weight", ".status.weight", "integer", words="Percent of the live traffic."),
    _column("Desired", ".status.desired", "integer"),
    _column("Ready", ".status.ready", "integer"),
    _column("Phase", ".status.phase"),
    _column("Reason", _REASON),
    _column("Message", _MESSAGE, wide=True),
    _AGE,
)


def _object_schema(spec: Schema, status: Mapping[str, Schema], rules: Sequence[validations.Rule]) -> Schema:
    whole: Schema = {
        "type": "object",
        "description": spec["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": dict(_TEXT),
            "kind": dict(_TEXT),
            "metadata": {"type": "object", "properties": {"name": dict(_TEXT)}},
            "spec": spec,
            "status": {"type": "object", "description": "Written by Tidegate.", "properties": dict(status)},
        },
    }
    validations.validate(whole, rules)
    return whole


def _definition(kind: Kind, schema: Schema, columns: Sequence[Schema], **subresources: Schema) -> Manifest:
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": list(columns),
        "subresources": {"status": {}, **subresources},
        "schema": {"openAPIV3Schema": schema},
    }
    return _crd(kind.crd, kind.kind, kind.plural, kind.short, [version], namespaced=True, categories=["tidegate"])


def _crd(
    name: str,
    kind: str,
    plural: str,
    short: Sequence[str],
    versions: Sequence[Schema],
    *,
    namespaced: bool,
    **names: Any,
) -> Manifest:
    called = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(), **names}
    called |= {"shortNames": list(short)} if short else {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name},
        "spec": {
            "group": name.partition(".")[2],
            "names": called,
            "scope": "Namespaced" if namespaced else "Cluster",
            "versions": list(versions),
        },
    }


def endpoint_crd() -> Manifest:
    """OnlineEndpoint."""
    spec = section_schema(ENDPOINT_KEYS, EndpointSpec)
    del spec["required"]  # the object has the name
    spec["default"] = {}
    explained.explain(spec, explained.ENDPOINT)
    schema = _object_schema(spec, _ENDPOINT_STATUS, validations.ENDPOINT)
    del schema["required"]
    return _definition(ENDPOINT, schema, _ENDPOINT_COLUMNS)


def deployment_crd() -> Manifest:
    """OnlineDeployment."""
    spec = section_schema(DEPLOYMENT_KEYS, DeploymentSpec)
    spec["required"].remove("name")
    explained.explain(spec, explained.DEPLOYMENT)
    scale = {
        "specReplicasPath": ".spec.instance_count",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    schema = _object_schema(spec, _DEPLOYMENT_STATUS, validations.DEPLOYMENT)
    return _definition(DEPLOYMENT, schema, _DEPLOYMENT_COLUMNS, scale=scale)


def instance_type_crd() -> Manifest:
    """Azure's InstanceType, for clusters that do not have it from Azure's own extension."""
    amounts = {"type": "object", "additionalProperties": dict(TEXT_OR_NUMBER)}
    spec: Schema = {
        "type": "object",
        "properties": {
            "nodeSelector": {
                "type": "object",
                "additionalProperties": dict(_TEXT),
                "description": "Labels that a node must have.",
            },
            "resources": {
                "type": "object",
                "description": "What each replica asks for and gets at most.",
                "properties": {"requests": amounts, "limits": amounts},
            },
            "tolerations": {
                "type": "array",
                "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "description": "Not in Azure's: taints of nodes that the pods may ignore.",
            },
        },
    }
    whole = {
        "type": "object",
        "description": "A kind of compute in the cluster, which deployments name as instance_type.",
        "properties": {
            "apiVersion": dict(_TEXT),
            "kind": dict(_TEXT),
            "metadata": {"type": "object"},
            "spec": spec,
        },
    }
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": whole}}
    return _crd("instancetypes.amlarc.azureml.com", "InstanceType", "instancetypes", (), [version], namespaced=False)


def files() -> dict[str, str]:
    """Name of a file → its text. `instancetypes.yaml` is for `kubectl create`, which leaves Azure's own alone."""
    manifests = {
        "onlineendpoints.yaml": [endpoint_crd()],
        "onlinedeployments.yaml": [deployment_crd()],
        "policies.yaml": policies(),
        "instancetypes.yaml": [instance_type_crd()],
    }
    return {name: HEADER + "---\n".join(to_yaml(one) for one in made) for name, made in manifests.items()}


def to_yaml(manifest: Mapping[str, Any]) -> str:
    """YAML without anchors, in the order of the keys."""
    return yaml.dump(manifest, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, _: Any) -> bool:  # type: ignore[override,unused-ignore]
        return True


def main(arguments: Sequence[str]) -> int:
    """Write the files into the folder that is named, or print them."""
    made = files()
    for name, text in made.items():
        if arguments:
            (Path(arguments[0]) / name).write_text(text)
        else:
            sys.stdout.write(f"---\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
