"""The flags that say where replicas run, and what becomes of them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from autoscaler.backends.kubernetes.backend import KubernetesBackend
from autoscaler.backends.kubernetes.settings import DEFAULT_CONTROL_URL, DEFAULT_IMAGE, KubernetesSettings
from autoscaler.backends.local import LocalBackend
from router.app import add_role_arguments
from router.cli.up import compute_words
from router.cli.up_flags import add_up_arguments
from router.compute import backends, chosen, kubernetes_settings, passed_on
from router.runtime.settings import DataLayout

EVERYTHING = [
    "--backend=kubernetes",
    "--kubeconfig=/k",
    "--kubernetes-context=c",
    "--kubernetes-namespace=models",
    "--kubernetes-image=tidegate:2",
    "--kubernetes-pull-policy=Never",
    "--kubernetes-pull-secret=a",
    "--kubernetes-pull-secret=b",
    "--kubernetes-control-url=http://control:1",
    "--kubernetes-instance-types=/types.yaml",
    "--kubernetes-allow-root",
    "--kubernetes-cache-claim=wheels",
]


def autoscaler(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_role_arguments(parser, "autoscaler")
    return parser.parse_args(words)


def up(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_up_arguments(parser)
    return parser.parse_args(words)


def test_replicas_run_on_this_machine_unless_said_otherwise(tmp_path: Path) -> None:
    flags = autoscaler()
    assert chosen(flags) == ("local",)
    (made,) = backends(flags, DataLayout(tmp_path)).values()
    assert isinstance(made, LocalBackend)
    assert passed_on(up()) == ()


def test_the_first_backend_is_the_default_one(tmp_path: Path) -> None:
    flags = autoscaler("--backend=kubernetes", "--backend=local", "--backend=kubernetes")
    assert list(backends(flags, DataLayout(tmp_path))) == ["kubernetes", "local"]
    assert isinstance(backends(flags, DataLayout(tmp_path))["kubernetes"], KubernetesBackend)


def test_every_flag_arrives() -> None:
    found = kubernetes_settings(autoscaler(*EVERYTHING))
    assert (found.cluster.kubeconfig, found.cluster.context, found.namespace) == ("/k", "c", "models")
    assert found.instance_types == Path("/types.yaml")
    pods = found.pods
    assert (pods.image, pods.pull_policy, pods.pull_secrets) == ("tidegate:2", "Never", ("a", "b"))
    assert (pods.control_url, pods.allow_root, pods.cache_claim) == ("http://control:1", True, "wheels")


def test_no_flag_leaves_the_defaults() -> None:
    found = kubernetes_settings(autoscaler("--backend=kubernetes"))
    assert found == KubernetesSettings()
    assert (found.pods.image, found.pods.control_url) == (DEFAULT_IMAGE, DEFAULT_CONTROL_URL)


def test_up_hands_everything_on_to_its_autoscaler() -> None:
    words = passed_on(up(*EVERYTHING))
    assert sorted(words) == sorted(EVERYTHING)
    assert kubernetes_settings(autoscaler(*words)) == kubernetes_settings(autoscaler(*EVERYTHING))


def test_pods_of_up_find_its_own_control_plane_unless_another_is_named() -> None:
    words = compute_words(up("--backend=kubernetes", "--control-host=10.1.2.3"), 8099)
    assert "--kubernetes-control-url=http://10.1.2.3:8099" in words
    assert compute_words(up(*EVERYTHING), 8099) == passed_on(up(*EVERYTHING))
    assert compute_words(up(), 8099) == ()


def test_an_unknown_backend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        autoscaler("--backend=clouds")
    assert "choose from" in capsys.readouterr().err
