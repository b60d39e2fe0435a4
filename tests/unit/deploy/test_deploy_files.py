"""What can be told of the image and the compose file without building and starting them."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.app import ROLES, add_role_arguments
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.opening import check_url

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKING = ("control", "autoscaler", "mirror", "gateway")
DATA = "/var/lib/tidegate"


def flags_of(service: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ROLES:
        add_role_arguments(roles.add_parser(role, exit_on_error=False), role)
    return parser.parse_args(SERVICES[service]["command"])


@pytest.mark.parametrize("service", WORKING)
def test_every_service_runs_its_role_on_kafka_and_the_shared_folder(service: str) -> None:
    flags = flags_of(service)
    where = check_url(flags.log)
    assert flags.role == service
    assert isinstance(where, KafkaUrl)
    assert where.servers == ("kafka:9092",)
    assert str(flags.data) == DATA
    assert [volume for volume in SERVICES[service]["volumes"] if volume == f"data:{DATA}"]


def test_brokers_are_told_to_answer_under_the_name_that_roles_use() -> None:
    environment = SERVICES["kafka"]["environment"]
    assert SERVICES["kafka"]["hostname"] == "kafka"
    assert environment["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://kafka:9092"
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert [f"kafka:{environment['KAFKA_LOG_DIRS']}"] == SERVICES["kafka"]["volumes"]


def test_images_are_pinned_and_named_without_a_registry() -> None:
    images = {service["image"] for service in SERVICES.values()} | set(
        re.findall(r"^ARG BASE=(\S+)", DOCKERFILE, re.MULTILINE)
    )
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}
    for image in images:
        assert re.fullmatch(r"([a-z]+/)?[a-z]+:\d+\.\d+\.\d+[a-z-]*", image), image


def test_roles_live_in_one_network_and_one_process_space_as_on_one_machine() -> None:
    for service in WORKING:
        assert SERVICES[service]["network_mode"] == SERVICES[service]["pid"] == "service:machine"
        assert "ports" not in SERVICES[service]
        assert "machine" in SERVICES[service]["depends_on"]


def test_every_published_port_is_listened_on_and_the_control_plane_stays_on_loopback() -> None:
    listening = {str(flags_of(service).port): flags_of(service).host for service in ("control", "gateway")}
    published = {port.rpartition(":")[2]: port for port in SERVICES["machine"]["ports"]}
    assert set(published) == set(listening)
    assert set(listening.values()) == {"0.0.0.0"}
    assert published["8081"].startswith("127.0.0.1:")


def test_the_control_plane_waits_for_the_token_that_the_first_start_makes() -> None:
    control, token = SERVICES["control"], SERVICES["token"]
    file = control["environment"]["TIDEGATE_CONTROL_TOKEN_FILE"]
    assert token["command"] == ["token", file]
    assert token["volumes"] == [f"data:{DATA}"]
    assert file.startswith(f"{DATA}/")
    assert control["depends_on"]["token"] == {"condition": "service_completed_successfully"}
    assert control["environment"].items() >= SERVICES["gateway"]["environment"].items()


def with_other_machines() -> dict[str, Any]:
    """The compose file with the lines that let gateways on other machines in."""
    lines = []
    for line in (ROOT / "deploy" / "compose.yaml").read_text().splitlines():
        bare = re.sub(r"# (?=(- |environment:|secrets:|  TIDEGATE_|  demand-))", "", line, count=1)
        lines.append(bare if line.lstrip().startswith("#") else line)
    found: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return found


def test_what_is_commented_out_for_other_machines_fits_together() -> None:
    compose = with_other_machines()
    autoscaler = compose["services"]["autoscaler"]
    assert "--listen=0.0.0.0:8090" in autoscaler["command"]
    assert "8090:8090" in compose["services"]["machine"]["ports"]
    named = {name: value for name, value in autoscaler["environment"].items() if name.startswith("TIDEGATE_DEMAND_")}
    assert set(named) == {"TIDEGATE_DEMAND_TOKEN_FILE", "TIDEGATE_DEMAND_CERT_FILE"}
    assert {value.removeprefix("/run/secrets/") for value in named.values()} == set(autoscaler["secrets"])
    assert set(autoscaler["secrets"]) == set(compose["secrets"])
    assert autoscaler["environment"].items() >= SERVICES["autoscaler"]["environment"].items()


def test_every_service_is_bounded_and_all_that_work_are_watched() -> None:
    for name, service in SERVICES.items():
        assert service["mem_limit"], name
        if name == "token":  # ends when it is done
            assert "restart" not in service
            continue
        assert service["restart"] == "unless-stopped", name
        assert name == "machine" or service["healthcheck"]["test"][0] == "CMD", name


def test_declared_volumes_are_the_ones_in_use() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert used == set(COMPOSE["volumes"])


def test_the_image_holds_locked_packages_only_and_does_not_run_as_root() -> None:
    installs = re.findall(r"bin/pip (?:--python \S+ )?install ((?:[^\n]|\\\n)*?)(?: && |\n(?! ))", DOCKERFILE)
    assert len(installs) == 4
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)
    user = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "by number, so that it can be seen without looking into the image"
    assert f"--gid {user.partition(':')[2]}" in DOCKERFILE
    assert f"--uid {user.partition(':')[0]}" in DOCKERFILE


def test_what_serves_scoring_scripts_has_an_environment_and_a_lock_of_its_own() -> None:
    lock = (ROOT / "deploy/requirements/inference.txt").read_text()
    assert re.search(r"^azureml-inference-server-http==", lock, re.MULTILINE)
    assert "-r deploy/requirements/inference.txt" in DOCKERFILE
    assert "COPY --from=build /opt/inference /opt/inference" in DOCKERFILE


def test_what_changes_seldom_comes_first_in_the_image() -> None:
    last = DOCKERFILE.rpartition("FROM ${BASE}")[2]
    copied = re.findall(r"^COPY (?:--from=build )?(\S+)", last, re.MULTILINE)
    assert copied == ["/opt/inference", "/opt/tidegate", "deploy/answers.py", "/tidegate"]


def test_all_that_the_build_backend_needs_is_taken_from_the_lock() -> None:
    match = re.search(r"\^\((\S+)\)==", DOCKERFILE)
    assert match is not None
    taken = set(match[1].split("|"))
    needed = {
        re.split(r"[ <>=;]", line)[0] for line in requires("hatchling") or () if "python_version < '3.11'" not in line
    }
    compiler = {
        re.split(r"[ <>=;]", line)[0].replace("_", "-") for line in requires("mypy") or () if "extra ==" not in line
    }
    assert taken == needed | {"hatchling"} | compiler - {"tomli"} | {"mypy", "setuptools"}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "deploy/requirements/dev.txt").read_text(), re.MULTILINE))
    assert taken <= locked


def test_the_build_context_holds_what_the_image_is_made_of_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        copied.update(word.rstrip("/") for word in line.split()[:-1] if not word.startswith("--"))
    assert "*" in ignored
    assert let_in == copied
    assert all((ROOT / name).exists() for name in copied)
    assert os.access(ROOT / "deploy" / "answers.py", os.X_OK)


Probe = Callable[..., Awaitable[int]]


@pytest.fixture
def probe() -> Probe:
    async def run(*words: str) -> int:
        script = str(ROOT / "deploy" / "answers.py")
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, *words, stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait()

    return run


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    line = await reader.readline()
    status = b"200 OK" if b" /healthz " in line else b"503 No"
    if line:
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_the_health_check_believes_answers_only(probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "s"
    over_tcp = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with over_tcp, await asyncio.start_unix_server(serve, path):
        base = f"http://127.0.0.1:{over_tcp.sockets[0].getsockname()[1]}"
        assert await probe(f"{base}/healthz") == 0
        assert await probe(f"{base}/readyz") == 1
        assert await probe(f"unix:{path}", "/healthz") == 0
        assert await probe(f"unix:{path}", "/readyz") == 1
        assert await probe(f"unix:{path}") == 0
    assert await probe(f"{base}/healthz") == 1
    assert await probe(f"unix:{tmp_path / 'nobody'}") == 1
    assert await probe() == 2
