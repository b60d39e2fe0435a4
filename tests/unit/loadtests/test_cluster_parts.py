"""What can be told of the test cluster without starting one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster import node_files, programs
from loadtests.kubernetes.cluster.audit import Asked, Audit
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.cluster.missing import missing
from loadtests.kubernetes.cluster.network import MOST_NODES, Subnets

Program = Callable[..., Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a program on a path that has nothing else; the cache is the test's own."""
    monkeypatch.setenv("TIDEGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr(node_files, "CNI_PROGRAMS", tmp_path)

    def write(name: str, body: str = "exit 0") -> Path:
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
        script.chmod(0o755)
        return script

    return write


def test_what_a_control_plane_misses_is_named(program: Program) -> None:
    assert (
        missing(nodes=0)
        == "a cluster needs openssl for its certificates, and there is none on the path (Debian: openssl)"
    )
    program("openssl")
    no_go = "Kubernetes' programs are not in the cache yet, and there is no Go 1.26 or newer to build them with"
    assert missing(nodes=0) == no_go
    program("go", "echo go version go1.21.3 linux/amd64")
    assert missing(nodes=0) == no_go
    program("go", "echo go version go1.27.0 linux/amd64")
    assert missing(nodes=0) is None


def test_a_go_can_be_fetched_where_there_is_uv(program: Program) -> None:
    program("openssl")
    program("uv")
    assert missing(nodes=0) is None


def test_what_was_built_before_needs_no_go(program: Program) -> None:
    program("openssl")
    for folder in (programs.folder(), programs.dns_folder(), programs.kwok_folder()):
        folder.mkdir(parents=True)
    assert missing(nodes=0) is None


def test_what_a_node_misses_is_named_one_after_the_other(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("openssl")
    program("uv")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == "a real Kubernetes node needs root: it makes namespaces, mounts and control groups"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("containerd", "ctr", "runc", "iptables", "ip", "nsenter", "unshare"):
        assert f"needs {name}, and there is none on the path (Debian: " in (missing() or "")
        program(name)
    for plugin in ("ptp", "host-local", "portmap", "loopback"):
        assert f"/{plugin} (Debian: containernetworking-plugins)" in (missing() or "")
        program(plugin)
    program("unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    assert (missing() or "").endswith("this machine refuses: unshare: unshare failed: Operation not permitted")
    program("unshare")
    assert missing() is None


def test_parts_of_a_block_do_not_overlap() -> None:
    block = Subnets(201)
    parts = [block.link, block.load_balancers, block.services, *map(block.pods, range(1, MOST_NODES + 1))]
    assert all(part.subnet_of(block.block) for part in parts)
    assert not [(one, other) for one in parts for other in parts if one is not other and one.overlaps(other)]
    assert block.machine == IPv4Address("10.201.0.1")
    assert {block.node(number) for number in range(1, MOST_NODES + 1)} < set(block.link.hosts())
    assert max(len(block.bridge), len(block.wire(MOST_NODES))) <= 15, "the kernel takes no longer names"


@pytest.mark.parametrize("hidden", ["/run/x", "/var/lib/x", "/var/log/x"])
def test_a_folder_that_nodes_would_not_see_is_refused(hidden: str) -> None:
    with pytest.raises(ValueError, match=f"folder {hidden}"):
        Cluster(Path(hidden), nodes=1)


def event(verb: str, stage: str = "ResponseComplete", **fields: Any) -> str:
    full = {
        "verb": verb, "stage": stage, "userAgent": "python/1.2 (x)", "user": {"username": "ada"},
        "requestURI": "/api/v1/pods?limit=1", "objectRef": {"resource": "pods"}, "responseStatus": {"code": 200},
    }  # fmt: skip
    return json.dumps(full | fields) + "\n"


def test_requests_are_counted_once_each_and_only_whole_lines_are_read(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    audit = Audit(log)
    assert not audit.read()
    whole, half = event("get") * 2 + event("watch", "ResponseStarted"), event("get")
    log.write_text(whole + event("watch") + half[:20])
    get, watch = Asked("python", "ada", "get", "pods", 200), Asked("python", "ada", "watch", "pods", 200)
    assert audit.read() == {get: 2, watch: 1}
    log.write_text(whole + event("watch") + half)
    assert audit.read() == {get: 3, watch: 1}


def test_subresources_and_paths_that_are_none_are_told_apart(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(
        event("patch", objectRef={"resource": "deployments", "subresource": "scale"})
        + event("get", objectRef=None, requestURI="/readyz?verbose")
    )
    assert {one.resource for one in Audit(log).read()} == {"deployments/scale", "/readyz"}


def test_the_image_is_another_one_when_anything_in_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "TOP", tmp_path)
    (tmp_path / ".dockerignore").write_text("*\n!router/\n!LICENSE\n")
    for name in ("deploy/Dockerfile", "router/a.py", "router/__pycache__/a.pyc", "LICENSE", "not/in/it.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [image.name()]
    (tmp_path / "not/in/it.py").write_text("other")
    (tmp_path / "router/__pycache__/a.pyc").write_text("other")
    assert image.name() == names[0]
    for change in (
        lambda: (tmp_path / "router/a.py").write_text("other"),
        lambda: (tmp_path / "router/a.py").chmod(0o755),
        lambda: (tmp_path / "router/a.py").rename(tmp_path / "router/b.py"),
        lambda: (tmp_path / "deploy/Dockerfile").write_text("other"),
    ):
        change()
        names.append(image.name())
    assert len(set(names)) == len(names)


def test_a_build_is_lent_where_packages_come_from_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.invalid/simple")
    monkeypatch.setenv("PIP_TARGET", "/somewhere")
    lines = image._pip_configuration().splitlines()
    assert lines[0] == "[global]"
    assert "index-url = https://index.invalid/simple" in lines
    assert not [line for line in lines if "somewhere" in line]
