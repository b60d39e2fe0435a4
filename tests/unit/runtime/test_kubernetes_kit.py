"""The parts of the Kubernetes kit that need no server: addresses, errors, paces."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.runtime.clock import ManualClock
from router.runtime.kubernetes import (
    DEPLOYMENTS,
    PODS,
    Absent,
    Asked,
    Backoff,
    BadKubeconfig,
    Busy,
    Cluster,
    ClusterSettings,
    Contested,
    Denied,
    Expired,
    KubernetesError,
    NotSignedIn,
    OverQuota,
    Pace,
    Rejected,
    Resource,
    Unreachable,
)
from router.runtime.kubernetes.failures import failure, lost_output

ASKED = Asked("patch", DEPLOYMENTS, "models", "shop")


def test_addresses() -> None:
    assert PODS.path("models") == "/api/v1/namespaces/models/pods"
    assert PODS.path("models", "p", "log") == "/api/v1/namespaces/models/pods/p/log"
    assert DEPLOYMENTS.path("", "") == "/apis/apps/v1/deployments"
    assert DEPLOYMENTS.path("m", "a/../b") == "/apis/apps/v1/namespaces/m/deployments/a%2F..%2Fb"
    nodes = Resource("", "v1", "nodes", "Node", namespaced=False)
    assert nodes.path("models", "n") == "/api/v1/nodes/n"


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable"),
    [
        (401, {"message": "Unauthorized"}, NotSignedIn, True),
        (403, {"message": 'User "u" cannot patch resource "deployments" in API group "apps"'}, Denied, False),
        (403, {"message": "exceeded quota: few"}, OverQuota, False),
        (403, {"message": "violates PodSecurity"}, Rejected, False),
        (404, {"message": "not found"}, Absent, False),
        (409, {"message": "has been modified"}, Contested, True),
        (410, {"message": "too old"}, Expired, True),
        (422, {"message": "spec.replicas: invalid"}, Rejected, False),
        (429, {"message": "later", "details": {"retryAfterSeconds": 7}}, Busy, True),
        (503, b"<html>upstream</html>", Busy, True),
        (500, b"", Busy, True),
    ],
)
def test_every_refusal_is_an_error_of_ours(
    status: int, body: dict[str, object] | bytes, kind: type[KubernetesError], retryable: bool
) -> None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = failure(ASKED, status, text)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.answered == status
    assert "patch deployments shop in namespace models" in error.message or kind is Denied


def test_a_servers_wish_for_patience_is_known() -> None:
    assert failure(ASKED, 429, {"details": {"retryAfterSeconds": 7}}).wait_seconds == 7
    assert failure(ASKED, 503, {}, "3").wait_seconds == 3
    assert failure(ASKED, 503, {}, "soon").wait_seconds == 0
    assert failure(ASKED, 503, {}, "86400").wait_seconds == 60


def test_the_rule_to_add_is_the_servers_where_it_names_one() -> None:
    said = (
        'deployments.apps "shop" is forbidden: User "system:serviceaccount:a:b" cannot create resource "deployments" '
        'in API group "apps" in the namespace "models"'
    )
    message = failure(ASKED, 403, {"message": said}).message
    rule = '{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}'
    assert f"add the rule {rule} to the Role in namespace models that is bound to system:serviceaccount:a:b" in message
    nowhere = failure(Asked("list", PODS), 403, {"message": 'User "u" cannot do it'}).message
    assert '"resources": ["pods"], "verbs": ["list"]} to the ClusterRole' in nowhere


async def test_a_pace_lets_a_burst_pass_and_then_one_after_the_other() -> None:
    clock = ManualClock()
    pace = Pace(10, 3, clock)
    for _ in range(3):
        await pace.turn()
    waiting = [asyncio.create_task(pace.turn()) for _ in range(2)]
    await asyncio.sleep(0)
    assert clock.sleepers == 2
    clock.advance(0.1)
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.done() for task in waiting] == [True, False]
    clock.advance(0.1)
    await asyncio.gather(*waiting)
    clock.advance(60)
    for _ in range(3):
        await pace.turn()
    assert clock.sleepers == 0


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40))
def test_pauses_double_within_bounds_and_start_over(chances: list[float]) -> None:
    drawn = iter(chances)
    backoff = Backoff(0.5, 30, lambda: next(drawn))
    for number in range(len(chances)):
        whole = min(30, 0.5 * 2**number)
        assert whole / 2 <= backoff.next() <= whole
    backoff.reset()
    assert backoff.failures == 0


async def test_a_kubeconfig_that_is_not_there_or_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadKubeconfig, match=r"kubeconfig /nowhere: there is no such file"):
        await Cluster(ClusterSettings(kubeconfig="/nowhere")).open()
    broken = tmp_path / "kubeconfig"
    for text in ("clusters: []\n", "- a\n", "current-context: x\ncontexts: []\nclusters: []\nusers: []\n", "a: [b"):
        broken.write_text(text)
        with pytest.raises(BadKubeconfig, match=f"kubeconfig {broken}"):
            await Cluster(ClusterSettings(kubeconfig=str(broken))).open()
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadKubeconfig, match="name a kubeconfig"):
        await Cluster().open()


async def test_nobody_there_is_unreachable_and_counted(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "models"}}],
                    "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                    "users": [{"name": "u", "user": {"token": "t"}}],
                }
            )
        )
        cluster = Cluster(ClusterSettings(kubeconfig=str(kubeconfig)))
        await cluster.open()
        assert cluster.namespace == "models"
        with pytest.raises(Unreachable, match=rf"API server at http://127.0.0.1:{port} cannot be reached"):
            await cluster.get(PODS, "models", "p")
        assert cluster.requests == {("get", "pods", "none"): 1}
        await cluster.close()


def test_a_node_that_says_instead_of_output_that_it_has_none_is_not_taken_for_output() -> None:
    asked = Asked("get", PODS, "models", "shop-1", "log")
    gone = (
        'failed to try resolving symlinks in path "/var/log/pods/p/server/3.log": lstat /var/log/pods/p: no such file'
    )
    assert isinstance(lost_output(asked, gone), Absent)
    said = f"unable to retrieve container logs for containerd://{'f48f' * 16}"
    lost = lost_output(asked, said)
    assert isinstance(lost, Absent)
    assert said in str(lost)
    assert lost_output(asked, f"{said}\nand went on") is None
    assert lost_output(asked, "") is None
    assert lost_output(asked, f"2026-11-26T09:00:00Z {said}\n") is None  # with its time: the server has written it
