"""Each account of the overlays may do what its pod needs, and is denied everything else, by the API server itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from loadtests.kubernetes.cluster.api import Api, ApiFailed, Document
from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_overlays import ENDPOINTS, OVERLAYS, ROOT, SYSTEM, applied, of_kind, rendered

Rules = dict[tuple[str, str, str], frozenset[str]]
"""(API group, resource, name; empty = any) → verbs."""


def both(one: Rules, other: Rules) -> Rules:
    """What two roles allow together."""
    return {key: one.get(key, frozenset()) | other.get(key, frozenset()) for key in one.keys() | other.keys()}


NOTHING: Rules = {}
LEASE: Rules = {
    ("coordination.k8s.io", "leases", ""): frozenset({"create"}),
    ("coordination.k8s.io", "leases", "tidegate"): frozenset({"get", "patch"}),
}
TYPES: Rules = {("amlarc.azureml.com", "instancetypes", ""): frozenset({"list"})}
REPLICAS: Rules = {
    ("apps", "deployments", ""): frozenset({"get", "list", "watch", "create", "patch", "delete"}),
    ("", "pods", ""): frozenset({"list", "watch", "patch", "delete"}),
    ("", "pods/log", ""): frozenset({"get"}),
    ("policy", "poddisruptionbudgets", ""): frozenset({"list", "watch", "create", "patch", "delete"}),
    ("", "serviceaccounts", ""): frozenset({"get", "list", "watch", "create", "patch", "delete"}),
    ("", "events", ""): frozenset({"list"}),
}
OBJECTS: Rules = {
    ("tidegate.dev", "onlineendpoints", ""): frozenset({"list", "watch", "patch", "delete"}),
    ("tidegate.dev", "onlinedeployments", ""): frozenset({"list", "watch", "patch", "delete"}),
    ("tidegate.dev", "onlineendpoints/status", ""): frozenset({"patch"}),
    ("tidegate.dev", "onlinedeployments/status", ""): frozenset({"patch"}),
    ("", "secrets", ""): frozenset({"get", "create", "patch"}),
    ("", "configmaps", ""): frozenset({"get"}),
    ("", "events", ""): frozenset({"create", "patch"}),
}
KINDS: Rules = {
    ("apiextensions.k8s.io", "customresourcedefinitions", f"online{kind}s.tidegate.dev"): frozenset({"get"})
    for kind in ("endpoint", "deployment")
}
EXPECTED: Mapping[str, Mapping[str, Mapping[str, Rules]]] = {
    "dev": {
        "tidegate": {
            SYSTEM: LEASE | TYPES | KINDS,
            ENDPOINTS: both(REPLICAS, OBJECTS) | TYPES | KINDS,
            "default": TYPES | KINDS,
        },
    },
    "production": {
        "tidegate-gateway": {SYSTEM: NOTHING, ENDPOINTS: NOTHING, "default": NOTHING},
        "tidegate-autoscaler": {SYSTEM: TYPES, ENDPOINTS: REPLICAS | TYPES, "default": TYPES},
        "tidegate-control": {SYSTEM: KINDS, ENDPOINTS: OBJECTS | KINDS, "default": KINDS},
    },
}
"""Overlay → account → namespace → all that it may do there."""
EVERYBODYS = {"authorization.k8s.io", "authentication.k8s.io"}
"""Groups in which every account may ask who it is and what it may do."""


async def as_account(cluster: Cluster, name: str) -> Api:
    """The API server, asked with the token of an account of ours."""
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{name}/token"
    issued = await cluster.api.post(path, {"spec": {"expirationSeconds": 3600}})
    return Api(cluster.api.server, cluster.api.authority, token=issued["status"]["token"])


async def rules_of(api: Api, namespace: str) -> Rules:
    """All that the API server says the account may do in `namespace`."""
    asked = {"spec": {"namespace": namespace}}
    review = await api.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", asked)
    assert not review["status"]["incomplete"]
    found: dict[tuple[str, str, str], frozenset[str]] = {}
    for rule in review["status"]["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames") or [""]:
                    if group not in EVERYBODYS:
                        key = (group, resource, name)
                        found[key] = found.get(key, frozenset()) | frozenset(rule["verbs"])
    return found


@pytest.mark.parametrize("which", OVERLAYS)
async def test_every_account_may_do_exactly_what_its_pod_needs(api_cluster: Cluster, which: str) -> None:
    documents = await rendered(api_cluster.kubectl_program, ROOT / "overlays" / which)
    accounts = {one["metadata"]["name"] for one in of_kind(documents, "ServiceAccount")}
    assert accounts == set(EXPECTED[which])
    async with applied(api_cluster, documents):
        for account, places in EXPECTED[which].items():
            api = await as_account(api_cluster, account)
            for namespace, rules in places.items():
                assert await rules_of(api, namespace) == rules, f"{account} in {namespace}"


POD: Document = {
    "metadata": {"name": "x"},
    "spec": {"containers": [{"name": "x", "image": "x"}]},
}
DEPLOYMENT: Document = {
    "metadata": {"name": "shop-blue", "labels": {"app": "x"}},
    "spec": {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": POD["spec"]},
    },
}


async def test_the_autoscaler_makes_replicas_and_touches_nothing_else(api_cluster: Cluster) -> None:
    documents = await rendered(api_cluster.kubectl_program, ROOT / "overlays" / "production")
    async with applied(api_cluster, documents):
        api = await as_account(api_cluster, "tidegate-autoscaler")
        deployments = f"/apis/apps/v1/namespaces/{ENDPOINTS}/deployments"
        await api.post(deployments, DEPLOYMENT, dryRun="All")
        await api.get(f"/api/v1/namespaces/{ENDPOINTS}/pods")
        await api.get(f"/api/v1/namespaces/{ENDPOINTS}/events")
        await api.post(f"/api/v1/namespaces/{ENDPOINTS}/serviceaccounts", {"metadata": {"name": "shop"}}, dryRun="All")

        await denied(api, "get", f"/api/v1/namespaces/{ENDPOINTS}/secrets")
        await denied(api, "get", f"/api/v1/namespaces/{SYSTEM}/secrets/tidegate-tokens")
        await denied(api, "get", f"/api/v1/namespaces/{SYSTEM}/pods")
        await denied(api, "get", "/api/v1/nodes")
        await denied(api, "get", "/api/v1/namespaces")
        await denied(api, "get", "/apis/apps/v1/deployments")
        await denied(api, "post", f"/api/v1/namespaces/{ENDPOINTS}/pods", POD)
        await denied(api, "post", f"/api/v1/namespaces/{ENDPOINTS}/pods/x/exec", {})
        await denied(api, "post", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments", DEPLOYMENT)
        await denied(api, "post", f"/api/v1/namespaces/{ENDPOINTS}/serviceaccounts/default/token", {"spec": {}})
        role = {"metadata": {"name": "x"}, "rules": []}
        await denied(api, "post", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ENDPOINTS}/roles", role)


async def denied(api: Api, method: str, path: str, *body: Any) -> None:
    with pytest.raises(ApiFailed, match="cannot") as refused:
        await getattr(api, method)(path, *body)
    assert refused.value.status == 403
