"""What `kubectl apply -k` sends is taken by a real API server to the letter, asks for least privilege, and fits the roles."""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from loadtests.kubernetes.cluster.api import ApiFailed
from loadtests.kubernetes.cluster.cluster import Cluster
from router.cli.parser import build_parser
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.opening import check_url
from tests.support.kubernetes_overlays import (
    ENDPOINTS,
    OVERLAYS,
    ROOT,
    SYSTEM,
    WORKLOADS,
    Document,
    Place,
    applied,
    apply,
    arguments,
    containers,
    environment,
    may_talk,
    named,
    of_kind,
    pod_specs,
    pods_of,
    rendered,
)

Render = Callable[[Path], Awaitable[list[Document]]]


@pytest.fixture
def render(api_cluster: Cluster) -> Render:
    async def of(folder: Path) -> list[Document]:
        return await rendered(api_cluster.kubectl_program, folder)

    return of


@pytest.fixture(params=OVERLAYS)
async def overlay(request: pytest.FixtureRequest, render: Render) -> list[Document]:
    return await render(ROOT / "overlays" / request.param)


@pytest.fixture
async def dev(render: Render) -> list[Document]:
    return await render(ROOT / "overlays" / "dev")


@pytest.fixture
async def production(render: Render) -> list[Document]:
    return await render(ROOT / "overlays" / "production")


@pytest.fixture
async def namespaces(api_cluster: Cluster, overlay: list[Document]) -> AsyncIterator[None]:
    """The overlay's own, with their labels, for as long as the test runs."""
    async with applied(api_cluster, of_kind(overlay, "Namespace")):
        yield


async def test_the_folder_itself_is_the_overlay_to_begin_with(render: Render, dev: list[Document]) -> None:
    assert await render(ROOT) == dev


def test_every_file_belongs_to_something() -> None:
    """A manifest that no kustomization names would be forgotten in silence."""
    mentioned = set()
    for path in ROOT.rglob("kustomization.yaml"):
        told = yaml.safe_load(path.read_text())
        for key in ("resources", "components", "transformers", "patches"):
            for one in told.get(key) or ():
                mentioned.add((path.parent / (one if isinstance(one, str) else one["path"])).resolve())
    files = {path.resolve() for path in ROOT.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert files - mentioned == {ROOT / "crds" / "instancetypes.yaml"}  # Azure's; see beside it


async def test_the_api_server_takes_all_of_it_without_a_word(
    api_cluster: Cluster, overlay: list[Document], namespaces: None, tmp_path: Path
) -> None:
    out, said = await apply(api_cluster, overlay, tmp_path, "--dry-run=server")
    assert said == ""
    assert len(out.splitlines()) == len(overlay)


async def test_pod_security_lets_our_pods_in_and_would_keep_worse_ones_out(
    api_cluster: Cluster, overlay: list[Document], namespaces: None
) -> None:
    for account in of_kind(overlay, "ServiceAccount"):
        await api_cluster.api.post(f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", account)
    pods = f"/api/v1/namespaces/{SYSTEM}/pods"
    for name, spec in pod_specs(overlay).items():
        made = without_claims(spec)
        await api_cluster.api.post(pods, {"metadata": {"name": name}, "spec": made}, dryRun="All")
        for worsen in (as_root, with_capabilities, on_the_host, without_seccomp):
            worse = copy.deepcopy(made)
            worsen(worse)
            with pytest.raises(ApiFailed, match="violates PodSecurity"):
                await api_cluster.api.post(pods, {"metadata": {"name": name}, "spec": worse}, dryRun="All")


def without_claims(spec: Document) -> Document:
    """A pod of its own, without what only its StatefulSet gives it."""
    made = copy.deepcopy(spec)
    there = {volume["name"] for volume in made["volumes"]}
    used = {mount["name"] for container in containers(made) for mount in container["volumeMounts"]}
    made["volumes"] += [{"name": name, "emptyDir": {}} for name in used - there]
    return made


def as_root(spec: Document) -> None:
    spec["securityContext"]["runAsUser"] = 0


def with_capabilities(spec: Document) -> None:
    del spec["containers"][0]["securityContext"]["capabilities"]


def on_the_host(spec: Document) -> None:
    spec["hostNetwork"] = True


def without_seccomp(spec: Document) -> None:
    del spec["securityContext"]["seccompProfile"]


async def test_every_pod_asks_for_the_least_there_is(overlay: list[Document]) -> None:
    for name, spec in pod_specs(overlay).items():
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in containers(spec):
            where = f"{name}/{container['name']}"
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True, where
            assert own["allowPrivilegeEscalation"] is False, where
            assert own["capabilities"] == {"drop": ["ALL"]}, where
            assert not {"privileged", "runAsUser", "seccompProfile"} & own.keys(), where
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, where
            assert "memory" in container["resources"]["limits"], where


async def test_every_role_is_probed_where_it_listens_and_one_call_does_not_decide_about_another(
    overlay: list[Document],
) -> None:
    for name, spec in pod_specs(overlay).items():
        lasting = [one for one in containers(spec) if one["name"] != "tokens"]
        for container in lasting:
            where = f"{name}/{container['name']}"
            ports = {port["name"] for port in container["ports"]}
            for kind in ("startupProbe", "livenessProbe"):
                assert container[kind]["httpGet"]["port"] in ports, where
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        ready = [one["name"] for one in lasting if "readinessProbe" in one]
        assert ready == [one["name"] for one in spec["containers"]], "only what serves callers makes a pod unready"


async def test_sidecars_outlive_what_needs_them_and_the_grace_is_long_enough_for_all(overlay: list[Document]) -> None:
    order = ["tokens", "shipper", "control", "autoscaler", "mirror", "gateway"]
    for name, spec in pod_specs(overlay).items():
        names = [one["name"] for one in containers(spec)]
        assert names == sorted(names, key=order.index), name
        for container in spec["initContainers"]:
            assert container["name"] == "tokens" or container["restartPolicy"] == "Always", name
        if names[-1] == "gateway":
            gateway = spec["containers"][0]
            waits = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
            drains = float(flags_of(overlay, gateway).drain_seconds)
            assert waits > 0
            assert spec["terminationGracePeriodSeconds"] >= waits + drains + 20


def flags_of(documents: list[Document], container: Document) -> argparse.Namespace:
    return build_parser().parse_args(arguments(documents, container))


async def test_every_container_is_a_role_with_flags_that_it_knows(overlay: list[Document]) -> None:
    for name, spec in pod_specs(overlay).items():
        for container in containers(spec):
            words = arguments(overlay, container)
            assert not any("$(" in word for word in words), words
            flags = flags_of(overlay, container)
            if container["name"] == "tokens":
                continue
            assert flags.role == container["name"], name
            data = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "data"]
            assert data == ["/var/lib/tidegate"], "where the image says that data is"
            listening = {port["containerPort"] for port in container["ports"]}
            told = {getattr(flags, "port", None), (getattr(flags, "listen", None) or (0, None))[1]}
            told.add((getattr(flags, "metrics", None) or (0, None))[1])
            assert listening == told - {None}, f"{name}/{container['name']}"


async def test_all_images_are_the_one_that_is_named_and_replicas_get_the_same(
    overlay: list[Document], render: Render, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert images(overlay) == {"tidegate:0.1.0"}
    own = request.node.callspec.params["overlay"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (tmp_path / "kubernetes").symlink_to(ROOT)
    mine.joinpath("kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [f"../kubernetes/overlays/{own}"],
                "images": [{"name": "tidegate", "newName": "registry.example/tidegate", "newTag": "9"}],
                "transformers": [f"../kubernetes/replica-image/{own}"],
            }
        )
    )
    assert images(await render(mine)) == {"registry.example/tidegate:9"}


def images(documents: list[Document]) -> set[str]:
    found = {one["image"] for spec in pod_specs(documents).values() for one in containers(spec)}
    for spec in pod_specs(documents).values():
        for container in containers(spec):
            found |= {one["value"] for one in container.get("env", ()) if one["name"] == "TIDEGATE_IMAGE"}
    return found


async def test_services_and_budgets_select_pods_that_are_there(overlay: list[Document]) -> None:
    pods = pods_of(overlay)
    for service in of_kind(overlay, "Service"):
        chosen = [pod for pod in pods.values() if service["spec"]["selector"].items() <= pod.labels.items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= chosen[0].ports.keys()
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        labels = budget["spec"]["selector"]["matchLabels"]
        assert len([pod for pod in pods.values() if labels.items() <= pod.labels.items()]) == 1
    for workload in of_kind(overlay, "StatefulSet"):
        assert named(overlay, "Service", workload["spec"]["serviceName"])


async def test_gateways_are_found_by_a_load_balancer_and_nothing_else_is(overlay: list[Document]) -> None:
    outside = [one for one in of_kind(overlay, "Service") if one["spec"].get("type", "ClusterIP") != "ClusterIP"]
    assert [one["metadata"]["name"] for one in outside] == ["tidegate-gateway"]
    assert outside[0]["spec"]["type"] == "LoadBalancer"


async def test_nothing_scales_our_pods_but_people(overlay: list[Document]) -> None:
    assert of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject") == []


# ── secrets ──


SECRETS: dict[str, dict[str, set[str]]] = {
    "tidegate-gateway": {"shipper": {"kafka"}, "mirror": {"tokens"}, "gateway": {"tokens"}},
    "tidegate-autoscaler": {"shipper": {"kafka"}, "autoscaler": {"kafka", "tokens", "api"}},
    "tidegate-control": {"shipper": {"kafka"}, "control": {"kafka", "tokens", "api"}},
}
"""Workload → container → volumes with secrets that it may see."""


async def test_each_container_sees_the_secrets_it_needs_and_no_others(production: list[Document]) -> None:
    for name, spec in pod_specs(production).items():
        secret = {one["name"] for one in spec["volumes"] if one.keys() & {"secret", "projected"}}
        for container in containers(spec):
            seen = {mount["name"] for mount in container["volumeMounts"]} & secret
            assert seen == SECRETS[name][container["name"]], f"{name}/{container['name']}"
    tokens = {
        name: {
            item["key"] for one in spec["volumes"] if one["name"] == "tokens" for item in one["secret"].get("items", ())
        }
        for name, spec in pod_specs(production).items()
    }
    assert tokens["tidegate-gateway"] == {"demand"}
    assert tokens["tidegate-autoscaler"] == {"demand", "assets"}
    text = yaml.safe_dump_all(production)
    assert not re.search(r"^kind: Secret$", text, re.MULTILINE), "no secret is born in a repository"


async def test_in_one_pod_only_two_containers_have_a_token_for_the_api_server(dev: list[Document]) -> None:
    (spec,) = pod_specs(dev).values()
    seeing = [one["name"] for one in containers(spec) if "api" in {mount["name"] for mount in one["volumeMounts"]}]
    assert seeing == ["control", "autoscaler"]


# ── production, on Kafka ──


async def test_each_role_on_kafka_is_told_the_same_log_and_leaves_shipping_to_its_sidecar(
    production: list[Document],
) -> None:
    logs = set()
    for spec in pod_specs(production).values():
        names = [one["name"] for one in containers(spec)]
        assert names.count("shipper") == 1
        for container in containers(spec):
            flags = flags_of(production, container)
            logs.add(flags.log)
            assert container["name"] == "shipper" or flags.no_shipper
            assert environment(production, container)["TIDEGATE_SPOOL_BYTES"]
    (log,) = logs
    assert isinstance(check_url(log), KafkaUrl)


async def test_a_full_spool_does_not_get_a_pod_evicted(production: list[Document]) -> None:
    for name, spec in pod_specs(production).items():
        most = int(environment(production, spec["containers"][0])["TIDEGATE_SPOOL_BYTES"])
        for volume in spec["volumes"]:
            if volume["name"] == "data":
                size = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
                shadows = 2 << 30 if name == "tidegate-gateway" else 0
                assert size >= 4 * most + shadows, name


async def test_gateways_mirrors_and_control_know_every_autoscaler_by_name(production: list[Document]) -> None:
    autoscaler = named(production, "StatefulSet", "tidegate-autoscaler")
    service = named(production, "Service", autoscaler["spec"]["serviceName"])
    port = service["spec"]["ports"][0]["port"]
    assert service["spec"]["clusterIP"] == "None"
    expected = [
        f"http://tidegate-autoscaler-{number}.{service['metadata']['name']}:{port}"
        for number in range(autoscaler["spec"]["replicas"])
    ]
    for name in ("tidegate-gateway", "tidegate-control"):
        for container in containers(pod_specs(production)[name]):
            if container["name"] != "shipper":
                assert flags_of(production, container).autoscaler == expected, container["name"]


async def test_gateways_are_several_in_different_zones_and_a_rollout_takes_none_away_first(
    production: list[Document],
) -> None:
    gateway = named(production, "Deployment", "tidegate-gateway")
    assert gateway["spec"]["replicas"] >= 2
    assert gateway["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    spread = [one["topologyKey"] for one in gateway["spec"]["template"]["spec"]["topologySpreadConstraints"]]
    assert spread == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    budgets = {one["metadata"]["name"] for one in of_kind(production, "PodDisruptionBudget")}
    assert budgets == {one["metadata"]["name"] for one in of_kind(production, *WORKLOADS)}


async def test_monitors_watch_ports_that_exist_with_a_secret_that_exists(render: Render, tmp_path: Path) -> None:
    (tmp_path / "kubernetes").symlink_to(ROOT)
    told = {"resources": ["../kubernetes/overlays/production"], "components": ["../kubernetes/components/monitoring"]}
    mine = tmp_path / "mine"
    mine.mkdir()
    mine.joinpath("kustomization.yaml").write_text(yaml.safe_dump(told))
    found = await render(mine)
    pods = pods_of(found)
    (monitor,) = of_kind(found, "PodMonitor")
    watched = [pod for pod in pods.values() if monitor["spec"]["selector"]["matchLabels"].items() <= pod.labels.items()]
    assert len(watched) == len(pods)
    assert all("metrics" in pod.ports for pod in watched)
    (service,) = of_kind(found, "ServiceMonitor")
    chosen = [
        one
        for one in of_kind(found, "Service")
        if service["spec"]["selector"]["matchLabels"].items() <= one["metadata"].get("labels", {}).items()
    ]
    assert [one["metadata"]["name"] for one in chosen] == ["tidegate-control"]
    assert service["spec"]["endpoints"][0]["port"] in {port["name"] for port in chosen[0]["spec"]["ports"]}
    login = service["spec"]["endpoints"][0]["authorization"]["credentials"]
    assert login == {"name": "tidegate-tokens", "key": "metrics"}
    prometheus = Place("monitoring", {"app": "prometheus"})
    for name, pod in pods.items():
        assert may_talk(found, prometheus, pod, 9101), name
    assert may_talk(found, prometheus, pods["tidegate-control"], 8081)
    assert not may_talk(found, prometheus, pods["tidegate-autoscaler"], 8090)


# ── who may talk to whom ──

ELSEWHERE = {
    "replica": Place(ENDPOINTS, {"app.kubernetes.io/name": "tidegate-replica"}),
    "stranger": Place("default", {"app": "stranger"}),
    "beside us": Place(SYSTEM, {"app": "stranger"}),
    "beside replicas": Place(ENDPOINTS, {"app": "stranger"}),
    "kafka": Place("kafka", {"app": "kafka"}),
    "names": Place("kube-system", {"k8s-app": "kube-dns"}),
    "internet": Place(address="93.184.216.34"),
    "API server": Place(address="10.96.0.1"),
    "metadata": Place(address="169.254.169.254"),
}
PORTS = {
    "gateway": (8080, 9101, 9102),
    "autoscaler": (8090, 9101),
    "control": (8081, 9101),
    "tidegate": (8080, 8081, 8090, 9102),
    "replica": (5001, 22),
    "stranger": (8000,),
    "kafka": (9092, 9093, 8000),
    "names": (53,),
    "internet": (443, 80),
    "API server": (443, 6443),
    "metadata": (80, 443),
}
OURS = ("gateway", "autoscaler", "control", "tidegate", "replica", "beside us", "beside replicas")
AROUND_API = {("internet", 443), ("API server", 443), ("API server", 6443), ("metadata", 443)}
"""No selector names the API server, so whoever needs it may reach its ports anywhere outside."""
BROKERS = {("kafka", 9092), ("kafka", 9093)}


def open_ways(documents: list[Document]) -> set[tuple[str, str, int]]:
    """(who, whom, port) of all connections that begin or end at one of our pods."""
    own = {name.removeprefix("tidegate-"): pod for name, pod in pods_of(documents).items()}
    places = {**own, **ELSEWHERE}
    return {
        (one, other, port)
        for one in places
        for other, ports in PORTS.items()
        for port in ports
        if one != other and other in places and (one in OURS or other in OURS)
        if may_talk(documents, places[one], places[other], port, "UDP" if port == 53 else "TCP")
    }


async def test_in_production_the_needed_connections_are_open_and_no_others(production: list[Document]) -> None:
    assert open_ways(production) == {
        *((one, "gateway", 8080) for one in ("stranger", "kafka", "names", "internet", "API server", "metadata")),
        ("gateway", "replica", 5001),
        ("gateway", "replica", 22),
        ("gateway", "autoscaler", 8090),
        ("control", "autoscaler", 8090),
        ("replica", "control", 8081),
        ("replica", "internet", 443),
        *((one, *there) for one in ("autoscaler", "control") for there in AROUND_API),
        *((one, *there) for one in ("gateway", "autoscaler", "control") for there in BROKERS),
        *((one, "names", 53) for one in ("gateway", "autoscaler", "control", "replica", "beside us")),
    }


async def test_in_one_pod_the_same_connections_are_open_but_those_to_kafka(dev: list[Document]) -> None:
    assert open_ways(dev) == {
        *((one, "tidegate", 8080) for one in ("stranger", "kafka", "names", "internet", "API server", "metadata")),
        ("tidegate", "replica", 5001),
        ("tidegate", "replica", 22),
        ("replica", "tidegate", 8081),
        ("replica", "internet", 443),
        *(("tidegate", *there) for there in AROUND_API),
        *((one, "names", 53) for one in ("tidegate", "replica", "beside us")),
    }
