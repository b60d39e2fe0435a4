"""The ServiceAccount of an endpoint: who its pods are, for the cluster's cloud and for whoever else they talk to. Pure.

Three kinds of the endpoint's `properties` say so: `serviceaccount.<annotation>` becomes an annotation of the account, as the
workload identity of each cloud wants it; `serviceaccount-token.audience` gives the pods a token for that audience, renewed
by the node. Pods get no right in the cluster and no token for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from autoscaler.backends.kubernetes import names
from autoscaler.backends.kubernetes.reading import Account
from router.runtime.kubernetes.resources import SERVICE_ACCOUNTS

ANNOTATION = "serviceaccount."
AUDIENCE = "serviceaccount-token.audience"
TOKEN_SECONDS = 3600
TOKEN_FOLDER = "/var/run/secrets/tidegate.dev/serviceaccount"  # noqa: S105 -- a path
_AZURE = "azure.workload.identity/"

Manifest = dict[str, Any]


def service_account(endpoint: str, account: Mapping[str, str], generation: int, namespace: str) -> Manifest:
    """The account, which also keeps the generation of whoever owns the endpoint."""
    about = {**account_annotations(account), names.GENERATION: str(generation), names.MANIFEST: fingerprint(account)}
    return {
        "apiVersion": SERVICE_ACCOUNTS.api_version,
        "kind": SERVICE_ACCOUNTS.kind,
        "metadata": {
            "name": names.account_name(endpoint),
            "namespace": namespace,
            "labels": names.labels(endpoint),
            "annotations": about,
        },
        "automountServiceAccountToken": False,
    }


def is_whole(found: Account, account: Mapping[str, str]) -> bool:
    """Whether `found` is as it was written for `account`; annotations of others count for nothing."""
    wanted = account_annotations(account)
    return not found.mounts_token and all(found.annotations.get(name) == text for name, text in wanted.items())


def account_annotations(account: Mapping[str, str]) -> dict[str, str]:
    """Of the ServiceAccount, as the endpoint says them."""
    return {name.removeprefix(ANNOTATION): text for name, text in account.items() if name.startswith(ANNOTATION)}


def fingerprint(account: Mapping[str, str]) -> str:
    """Identity of what the endpoint says about its account."""
    return hashlib.sha256(json.dumps(dict(account), sort_keys=True).encode()).hexdigest()[:16]


def labels(account: Mapping[str, str]) -> dict[str, str]:
    """Of the pods: Azure's webhook wants to be asked."""
    asked = any(name.startswith(_AZURE) for name in account_annotations(account))
    return {f"{_AZURE}use": "true"} if asked else {}


def token(account: Mapping[str, str]) -> tuple[list[Manifest], list[Manifest]]:
    """(volume, mount) of the pods' token, where the endpoint asks for one."""
    audience = account.get(AUDIENCE)
    if not audience:
        return [], []
    source = {"audience": audience, "expirationSeconds": TOKEN_SECONDS, "path": "token"}
    volume = {"name": "token", "projected": {"sources": [{"serviceAccountToken": source}]}}
    return [volume], [{"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True}]
