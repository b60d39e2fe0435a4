"""`tidegate up` as a whole: one per folder, ports known before it starts, and nothing left after it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.runtime.processes import identity
from tests.support.cli_tree import COMMAND, ROOT, UpTree, processes_naming
from tests.support.tls_authority import Authority


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., UpTree]]:
    trees: list[UpTree] = []

    def begin(*flags: str, data: Path | None = None) -> UpTree:
        trees.append(UpTree(tmp_path, "--cache", str(tmp_path / "cache"), "--workers", "2", *flags, data=data))
        return trees[-1]

    yield begin
    for tree in trees:
        tree.kill()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return bool(json.load(answer) == {"status": "ok"})
    except OSError:
        return False


def processes_up(url: str) -> dict[str, float]:
    """Process → whether it answers, as one scrape says."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {one.labels["process"]: one.value for one in families["tidegate_process_up"].samples}


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def test_it_tells_where_it_is_and_leaves_nothing(start: Callable[..., UpTree], tmp_path: Path) -> None:
    tree = start()
    about = tree.about()
    assert set(about["roles"]) == {"control", "autoscaler", "mirror", "gateway 0", "gateway 1"}
    assert healthy(about["control_url"])
    assert f"endpoints   {about['gateway_url']}/endpoints/<name>/score" in tree.said.read_text()
    assert f"metrics     {about['metrics_url']}" in tree.said.read_text()
    assert processes_up(about["metrics_url"]) == {"autoscaler": 1, "mirror": 1, "gateway-0": 1, "gateway-1": 1}
    assert tree.run("online-endpoint", "list").stdout == "[]\n"
    pids = tree.pids()
    assert tree.end() == 0, tree.words()
    assert [name for name, pid in pids.items() if identity(pid)] == []
    assert not (tree.data / "run" / "up.json").exists()
    assert processes_naming(str(tmp_path)) == []
    assert "nothing is left running" in tree.said.read_text()
    assert "killed" not in tree.said.read_text()


def test_a_second_up_on_the_folder_is_told_who_has_it(start: Callable[..., UpTree]) -> None:
    first = start()
    first.about()
    second = start(data=first.data)
    assert second.process.wait(60) == 1
    said = second.said.read_text()
    assert f"already runs on {first.data} (pid {first.process.pid})" in said
    assert first.process.poll() is None


@pytest.mark.parametrize("flag", ["--port", "--control-port"])
def test_a_port_in_use_is_said_before_anything_starts(start: Callable[..., UpTree], flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        tree = start(flag, str(port))
        assert tree.process.wait(60) == 1
    said = tree.said.read_text()
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use): choose another with {flag}" in said
    assert list((tree.data / "logs").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://127.0.0.1:1", "no broker of the log can be reached: nobody listens at 127.0.0.1:1"),
        ("kafka://user:secret@broker:9092", "credentials do not belong in the URL"),
        ("kafak:x", "unknown kind of log"),
    ],
)
def test_a_log_that_nothing_here_can_open_is_said_before_anything_starts(
    start: Callable[..., UpTree], url: str, said: str
) -> None:
    tree = start("--log", url)
    assert tree.process.wait(60) == 1
    assert said in tree.said.read_text()
    assert "starting it again" not in tree.said.read_text()
    assert "secret" not in tree.said.read_text()


def test_a_folder_too_deep_for_sockets_is_said(start: Callable[..., UpTree], tmp_path: Path) -> None:
    tree = start(data=tmp_path / ("d" * 100))
    assert tree.process.wait(60) == 1
    assert "too long for Unix sockets" in tree.said.read_text()


@pytest.mark.parametrize("name", ["control", "autoscaler", "mirror", "gateway 1"])
def test_a_killed_role_comes_back_at_the_same_address(start: Callable[..., UpTree], name: str) -> None:
    tree = start()
    about, pids = tree.about(), tree.pids()
    os.kill(pids[name], signal.SIGKILL)

    def back() -> bool:
        role = tree.about()["roles"][name]
        return bool(role["ready"] and role["pid"] != pids[name])

    until(back)
    assert {other: pid for other, pid in tree.pids().items() if other != name} == {
        other: pid for other, pid in pids.items() if other != name
    }
    assert tree.about()["gateway_url"] == about["gateway_url"]
    assert healthy(about["control_url"])
    assert tree.end() == 0, tree.words()


def test_killing_up_ends_the_roles_and_the_next_up_takes_over(start: Callable[..., UpTree]) -> None:
    first = start()
    pids = first.pids()
    first.run("online-endpoint", "create", "-n", "kept")
    first.kill()
    second = start(data=first.data)
    assert second.run("online-endpoint", "list", "--query", "[].name", "-o", "tsv").stdout == "kept\n"
    assert [name for name, pid in pids.items() if identity(pid)] == []
    assert second.end() == 0, second.words()


def test_an_interrupt_from_the_terminal_ends_it_in_order(start: Callable[..., UpTree]) -> None:
    tree = start()
    pids = tree.pids()
    os.killpg(tree.process.pid, signal.SIGINT)
    assert tree.process.wait(180) == 0, tree.words()
    assert [name for name, pid in pids.items() if identity(pid)] == []


def test_with_a_certificate_it_speaks_https_and_says_so(start: Callable[..., UpTree], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("gateway", ["localhost", "127.0.0.1"])
    tree = start("--tls-cert", str(pair.chain), "--tls-key", str(pair.key))
    url = tree.about()["gateway_url"]
    assert url.startswith("https://127.0.0.1:")
    with urllib.request.urlopen(f"{url}/healthz", timeout=30, context=authority.trusted()) as answer:
        assert answer.status == 200
    assert f"{url}/endpoints/" in tree.said.read_text()
    tree.run("online-endpoint", "create", "-n", "shop")
    shown = json.loads(tree.run("online-endpoint", "show", "-n", "shop").stdout)
    assert shown["scoring_uri"].startswith(url)


def test_a_certificate_that_cannot_serve_is_said_before_anything_starts(
    start: Callable[..., UpTree], tmp_path: Path
) -> None:
    tree = start("--tls-cert", str(tmp_path / "none.pem"), "--tls-key", str(tmp_path / "none.key"))
    assert tree.process.wait(60) == 1
    assert "--tls-cert: cannot be read: No such file or directory" in tree.said.read_text()


def test_help_is_there_for_every_command() -> None:
    for words in ((), ("up",), ("online-endpoint",), ("online-deployment", "create"), ("gateway",), ("events",)):
        done = subprocess.run([*COMMAND, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: tidegate")
