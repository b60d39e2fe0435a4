"""Which kinds of compute an autoscaler drives, and which objects a control plane follows: the flags that say so, and what
is made from them. Wiring only.

A backend's own code, and the libraries it stands on, are imported only where it is wanted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.contract.errors import TidegateError
from router.runtime.given import Secret
from router.runtime.settings import DataLayout, ObjectSettings

if TYPE_CHECKING:
    from autoscaler.backends.base import Backend
    from autoscaler.backends.kubernetes.settings import KubernetesSettings

NO_KEY = Secret("")
BACKENDS = ("local", "kubernetes")

# flag → how argparse reads it; every one is optional, and its default stands in the backend's own settings
_KUBERNETES: dict[str, dict[str, Any]] = {
    "kubeconfig": {
        "metavar": "FILE",
        "help": "how to reach the cluster (default: $KUBECONFIG, else ~/.kube/config, else the pod's own account)",
    },
    "kubernetes-context": {"metavar": "NAME", "help": "context of the kubeconfig (default: its current one)"},
    "kubernetes-namespace": {"metavar": "NAME", "help": "where replicas run (default: the context's namespace)"},
    "kubernetes-image": {"metavar": "IMAGE", "help": "Tidegate's own image, which serves code deployments"},
    "kubernetes-pull-policy": {
        "choices": ("Always", "IfNotPresent", "Never"),
        "help": "when nodes pull Tidegate's image (default: IfNotPresent)",
    },
    "kubernetes-pull-secret": {
        "metavar": "NAME",
        "action": "append",
        "help": "Secret of the namespace with a registry's credentials; may be repeated",
    },
    "kubernetes-control-url": {
        "metavar": "URL",
        "help": "where pods find the control plane, to fetch uploaded files (default: http://tidegate-control:8081)",
    },
    "kubernetes-instance-types": {
        "metavar": "FILE",
        "type": Path,
        "help": "YAML with InstanceType documents, besides those that the cluster has",
    },
    "kubernetes-allow-root": {"action": "store_true", "help": "let users' own images run as root"},
    "kubernetes-cache-claim": {
        "metavar": "NAME",
        "help": "PersistentVolumeClaim in which all pods share built environments (default: each builds its own)",
    },
}


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags, for `tidegate autoscaler` and for `tidegate up`."""
    parser.add_argument(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="where replicas run; may be repeated: managed deployments run on the first, Kubernetes deployments on "
        "`kubernetes` where it is named (default: local)",
    )
    group = parser.add_argument_group("with --backend kubernetes")
    for flag, options in _KUBERNETES.items():
        group.add_argument(f"--{flag}", **options)


_CLUSTER = ("kubeconfig", "kubernetes-context", "kubernetes-namespace")


def add_object_arguments(parser: argparse.ArgumentParser, *, alone: bool) -> None:
    """The flags of objects, for `tidegate control` (`alone`) and for `tidegate up`, which has those of the cluster already."""
    group = parser.add_argument_group("objects in Kubernetes")
    group.add_argument(
        "--kubernetes-objects",
        action="store_true",
        help="follow OnlineEndpoint and OnlineDeployment objects: what is applied with kubectl is deployed, what is "
        "changed elsewhere is written back (see docs/kubernetes.md)",
    )
    for flag in _CLUSTER if alone else ():
        group.add_argument(f"--{flag}", **_KUBERNETES[flag] | _OBJECTS.get(flag, {}))


_OBJECTS: dict[str, dict[str, Any]] = {
    "kubernetes-namespace": {"help": "where the objects are (default: the context's namespace)"}
}


def object_settings(flags: argparse.Namespace) -> ObjectSettings | None:
    """Which objects a control plane follows; None for none."""
    if not flags.kubernetes_objects:
        return None
    return ObjectSettings(flags.kubeconfig, flags.kubernetes_context, flags.kubernetes_namespace)


def objects_passed_on(flags: argparse.Namespace) -> tuple[str, ...]:
    """The words that give a control plane the same flags of objects."""
    if not flags.kubernetes_objects:
        return ()
    named = {flag: getattr(flags, flag.replace("-", "_")) for flag in _CLUSTER}
    return ("--kubernetes-objects", *(f"--{flag}={value}" for flag, value in named.items() if value))


def chosen(flags: argparse.Namespace) -> tuple[str, ...]:
    """Names of the backends, the default one first."""
    return tuple(dict.fromkeys(flags.backend or ("local",)))


def passed_on(flags: argparse.Namespace) -> tuple[str, ...]:
    """The words that give another process the same flags."""
    return (*(f"--backend={name}" for name in flags.backend or ()), *_words(flags))


def _words(flags: argparse.Namespace) -> Iterator[str]:
    for flag in _KUBERNETES:
        value = getattr(flags, flag.replace("-", "_"))
        if value is True:
            yield f"--{flag}"
        elif value:
            yield from (f"--{flag}={one}" for one in (value if isinstance(value, list) else [value]))


def backends(flags: argparse.Namespace, data: DataLayout, assets_key: Secret = NO_KEY) -> Mapping[str, Backend]:
    """The backends, not started yet. `assets_key` signs the addresses of files. Raises `TidegateError` where a library is missing."""
    made: dict[str, Backend] = {}
    for name in chosen(flags):
        made[name] = _local(flags, data) if name == "local" else _kubernetes(flags, assets_key)
    return made


def _local(flags: argparse.Namespace, data: DataLayout) -> Backend:
    from autoscaler.backends.local import LocalBackend

    return LocalBackend(data, flags.cache)


def _kubernetes(flags: argparse.Namespace, assets_key: Secret = NO_KEY) -> Backend:
    try:
        from autoscaler.backends.kubernetes.backend import KubernetesBackend
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("kubernetes_asyncio"):
            raise
        raise TidegateError("--backend kubernetes needs more packages: pip install 'tidegate[kubernetes]'") from None
    return KubernetesBackend(kubernetes_settings(flags, assets_key))


def kubernetes_settings(flags: argparse.Namespace, assets_key: Secret = NO_KEY) -> KubernetesSettings:
    """What the flags say; what they do not say is as in the settings' own defaults."""
    from autoscaler.backends.kubernetes.settings import KubernetesSettings, PodRules
    from router.runtime.kubernetes import ClusterSettings

    pods: dict[str, Any] = {
        "image": flags.kubernetes_image,
        "pull_policy": flags.kubernetes_pull_policy,
        "pull_secrets": tuple(flags.kubernetes_pull_secret or ()),
        "control_url": flags.kubernetes_control_url,
        "assets_key": assets_key,
        "allow_root": flags.kubernetes_allow_root,
        "cache_claim": flags.kubernetes_cache_claim,
    }
    return KubernetesSettings(
        cluster=ClusterSettings(kubeconfig=flags.kubeconfig, context=flags.kubernetes_context),
        namespace=flags.kubernetes_namespace,
        pods=PodRules(**{name: value for name, value in pods.items() if value}),
        instance_types=flags.kubernetes_instance_types,
    )
