"""From what a deployment should be to the pods that run it. Pure.

A code deployment runs in Tidegate's own image: an init container fetches the files and prepares the environment in a
volume, the server starts from there with nothing else it could write to. A user's image runs as it is, with its own
routes. Both ask for no more than Pod Security "restricted" allows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from autoscaler.backends.base import DeploymentPlan
from autoscaler.backends.kubernetes import accounts, names
from autoscaler.backends.kubernetes.files import signatures
from autoscaler.backends.kubernetes.instance_types import InstanceType, gpus
from autoscaler.backends.kubernetes.layout import (
    APP,
    ASSETS,
    CACHE,
    CONTROL_URL,
    DOCUMENT,
    ENVIRONMENTS,
    GRACE,
    INITIALIZER,
    PORT,
    SCRATCH,
    SERVER,
    SIGNATURES,
    TASK,
)
from autoscaler.backends.kubernetes.manifests import Manifest
from autoscaler.backends.kubernetes.routes import Routes, routes
from autoscaler.backends.kubernetes.settings import PodRules
from autoscaler.backends.kubernetes.user_images import own_image, variables
from autoscaler.backends.local.launch import Unlaunchable, asset_path, command_of, needs, section
from autoscaler.backends.local.probes import startup_seconds
from router.contract.parts import GPU, Probe, RequestSettings
from router.contract.specs import RUNTIME_FIELDS

USER = 10001
"""Tidegate's user in its own image (`deploy/Dockerfile`)."""
MOST_DOCUMENT_BYTES = 100_000
"""Of what travels into the pod as an environment variable; Linux takes 128 KiB."""


def pod_template(plan: DeploymentPlan, kind: InstanceType, rules: PodRules) -> Manifest:
    """`spec.template` of the Deployment. Raises `Unlaunchable`."""
    document, image = plan.document, own_image(plan.document)
    _check_names(plan)
    where = routes(document, shared_port=image is None)
    spec = {
        "serviceAccountName": names.account_name(plan.endpoint),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": rules.pre_stop_seconds + _longest_request_seconds(document),
        "nodeSelector": dict(kind.node_selector),
        "tolerations": _tolerations(kind, rules),
        "topologySpreadConstraints": _spread(plan),
        "imagePullSecrets": [{"name": name} for name in rules.pull_secrets],
        **(_in_own_image(document, rules, where) if image is None else _in_users_image(document, image, rules, where)),
    }
    server = spec["containers"][0]
    server["resources"] = {"requests": dict(kind.requests), "limits": dict(kind.limits)}
    if spec.get("initContainers"):  # counts only while it runs, and only where it asks for more than the server
        spec["initContainers"][0]["resources"] = {
            side: {name: amount for name, amount in amounts.items() if name != GPU}
            for side, amounts in server["resources"].items()
        }
    own = names.workload_labels(plan.endpoint, plan.deployment, plan.template)
    volumes, mounts = accounts.token(plan.account)
    if gpus(kind):  # servers that share tensors between processes need more than the usual 64 MB of it
        volumes = [*volumes, {"name": "shm", "emptyDir": {"medium": "Memory"}}]
        mounts = [*mounts, {"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 -- the pod's own
    if volumes:
        spec["volumes"] = [*spec.get("volumes", ()), *volumes]
        server["volumeMounts"] = [*server.get("volumeMounts", ()), *mounts]
    about = {names.PORT: str(where.scoring_port), names.INSTANCE_TYPE: str(document.get("instance_type") or kind.name)}
    return {
        "metadata": {"labels": {**accounts.labels(plan.account), **own}, "annotations": about},
        "spec": {key: value for key, value in spec.items() if value not in ({}, [])},
    }


_MOUNTS: list[Manifest] = [{"name": "app", "mountPath": str(APP)}, {"name": "tmp", "mountPath": str(SCRATCH)}]
_VOLUMES: list[Manifest] = [{"name": "app", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]

# the two kinds of pods ---------------------------------------------------------------------------------------------


def _in_own_image(document: Mapping[str, Any], rules: PodRules, where: Routes) -> Manifest:
    needs(document, ASSETS)
    volumes, cache = _cache(rules)
    mounts = [*_MOUNTS, *cache]
    grace = str(_longest_request_seconds(document))
    server = {
        "name": SERVER,
        "image": rules.image,
        "imagePullPolicy": rules.pull_policy,
        "command": ["python", "-m", "autoscaler.backends.kubernetes.serving"],
        "env": _env({PORT: str(where.scoring_port), GRACE: grace, "HOME": str(SCRATCH)}),
        "volumeMounts": mounts,
        "securityContext": {**_CONFINED, "readOnlyRootFilesystem": True},
        **_lifecycle(where, rules),
    }
    return {
        # Its first process is the pod's, not the server: a first process hears no SIGTERM that it does not ask for, and would
        # hold its node's CPUs and GPUs for the whole grace period.
        "shareProcessNamespace": True,
        "initContainers": [_initializer(document, rules, "environment", mounts)],
        "containers": [server],
        "volumes": [*_VOLUMES, *volumes],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _in_users_image(document: Mapping[str, Any], image: str, rules: PodRules, where: Routes) -> Manifest:
    command = [word.replace("{port}", str(where.scoring_port)) for word in command_of(document)]
    server: Manifest = {
        "name": SERVER,
        "image": image,
        **({"command": [_plain(word) for word in command]} if command else {}),
        "env": _env(variables(document)),
        "securityContext": dict(_CONFINED),
        **_lifecycle(where, rules),
    }
    pod: Manifest = {
        "containers": [server],
        "securityContext": {
            **({} if rules.allow_root else {"runAsNonRoot": True}),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if _has_files(document):
        initializer = _initializer(document, rules, "files", _MOUNTS)
        initializer["securityContext"] |= {"runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": True}
        server["volumeMounts"] = [{**_MOUNTS[0], "readOnly": True}]
        if document.get("model_mount_path"):
            there = {"name": "app", "mountPath": str(document["model_mount_path"]), "readOnly": True}
            server["volumeMounts"].append(there)
        pod |= {"initContainers": [initializer], "volumes": _VOLUMES}
    return pod


def _initializer(document: Mapping[str, Any], rules: PodRules, task: str, mounts: list[dict[str, Any]]) -> Manifest:
    """Fetches what the document names; with the task `environment` it also builds where to run it."""
    picked = {name: document[name] for name in RUNTIME_FIELDS if name in document}
    picked["tidegate"] = {"command": list(command_of(document))}
    text = json.dumps(picked, default=_thawed, separators=(",", ":"))
    if len(text.encode()) > MOST_DOCUMENT_BYTES:
        message = f"the document has {len(text.encode())} bytes without its files; a pod takes {MOST_DOCUMENT_BYTES}"
        raise Unlaunchable("InvalidDeploymentSpec", message)
    cache = APP if rules.cache_claim is None else CACHE
    told = {TASK: task, CONTROL_URL: rules.control_url, DOCUMENT: text, ENVIRONMENTS: str(cache), "HOME": str(SCRATCH)}
    if signed := signatures(document, rules.assets_key):
        told[SIGNATURES] = json.dumps(signed, sort_keys=True)
    return {
        "name": INITIALIZER,
        "image": rules.image,
        "imagePullPolicy": rules.pull_policy,
        "command": ["python", "-m", "autoscaler.backends.kubernetes.preparation"],
        "env": _env(told),
        "envFrom": [{"secretRef": {"name": "tidegate-build", "optional": True}}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
        "securityContext": {**_CONFINED, "readOnlyRootFilesystem": True},
    }


def _cache(rules: PodRules) -> tuple[list[Manifest], list[Manifest]]:
    """(volume, mount) for built environments that all pods share; the app's own volume where there is none."""
    if rules.cache_claim is None:
        return [], []
    volume = {"name": "cache", "persistentVolumeClaim": {"claimName": rules.cache_claim}}
    return [volume], [{"name": "cache", "mountPath": str(CACHE)}]


def _has_files(document: Mapping[str, Any]) -> bool:
    """Whether anything was uploaded for it. Raises `Unlaunchable` for names that lead nowhere."""
    code = (document.get("code_configuration") or {}).get("code")
    model = section(document, "model").get("path")
    found = {"code_configuration.code": code, "model.path": model}
    for name, reference in found.items():
        if reference is not None:
            asset_path(APP, str(reference), name)
    return any(reference is not None for reference in found.values())


# the pod's parts ---------------------------------------------------------------------------------------------------

_CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _lifecycle(where: Routes, rules: PodRules) -> Manifest:
    probes = where.probes
    ready = _question(where, where.readiness_path, where.readiness_port)
    alive = _question(where, where.liveness_path, where.liveness_port)
    patience = math.ceil(startup_seconds(probes.readiness, probes.startup))
    first = probes.startup or probes.readiness
    made: Manifest = {
        "ports": [{"name": "http", "containerPort": where.scoring_port}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # Asked every second at first, because a caller may be waiting; the document's periods hold from then on.
        "startupProbe": {
            **(ready if probes.startup is None else alive),
            "periodSeconds": 1,
            "timeoutSeconds": _whole(first.timeout),
            "failureThreshold": max(1, patience),
        },
        "readinessProbe": {
            **ready,
            **_times(probes.readiness),
            "successThreshold": probes.readiness.success_threshold,
        },
        "livenessProbe": {**alive, **_times(probes.liveness)},
    }
    if rules.pre_stop_seconds > 0:
        made["lifecycle"] = {"preStop": {"sleep": {"seconds": rules.pre_stop_seconds}}}
    return made


def _question(where: Routes, path: str, port: int) -> Manifest:
    if where.probes.http2 and port == where.scoring_port:
        return {"tcpSocket": {"port": port}}  # kubelets ask in HTTP/1.1, which nobody speaks there
    over = {"scheme": "HTTPS"} if where.probes.secure else {}
    return {"httpGet": {"path": path, "port": port, **over}}


def _times(probe: Probe) -> dict[str, int]:
    return {
        "periodSeconds": _whole(probe.period),
        "timeoutSeconds": _whole(probe.timeout),
        "failureThreshold": probe.failure_threshold,
    }


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))


def _longest_request_seconds(document: Mapping[str, Any]) -> int:
    """How long a request may still run when its pod is told to end: streams as long as draining is waited for."""
    settings = document.get("request_settings") or {}
    timeout_ms = float(settings.get("request_timeout_ms", RequestSettings().request_timeout_ms))
    drain = float((document.get("tidegate") or {}).get("drain_seconds", 300.0))
    return math.ceil(max(timeout_ms / 1000, drain))


def _tolerations(kind: InstanceType, rules: PodRules) -> list[Manifest]:
    gpu = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}] if gpus(kind) else []
    lost = [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": rules.lost_node_seconds,
        }
        for state in ("not-ready", "unreachable")
    ]
    return [*gpu, *(dict(one) for one in kind.tolerations), *lost]


def _spread(plan: DeploymentPlan) -> list[Manifest]:
    same = {names.ENDPOINT: plan.endpoint, names.DEPLOYMENT: plan.deployment}
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": same},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def _check_names(plan: DeploymentPlan) -> None:
    for field, text in (("endpoint", plan.endpoint), ("name", plan.deployment), ("template", plan.template)):
        if not names.is_label(text):
            raise Unlaunchable("InvalidDeploymentSpec", f"{field}: {text!r} cannot be the value of a Kubernetes label")


def _env(variables: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": _plain(value)} for name, value in variables.items()]


def _plain(text: str) -> str:
    """`text` so that Kubernetes does not take `$(…)` in it for a variable."""
    return text.replace("$", "$$")


def _thawed(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)
