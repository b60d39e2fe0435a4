"""Every form of az's that scripts use is understood."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from router.cli.parser import build_parser

ELEVEN_STEPS: list[tuple[str, str, dict[str, Any]]] = [
    ("online-endpoint create --name E -f endpoint.yml", "endpoints:create", {"name": "E", "file": "endpoint.yml"}),
    (
        "online-deployment create --name blue --endpoint-name E -f blue-deployment.yml --all-traffic",
        "deployments:create",
        {"name": "blue", "endpoint_name": "E", "file": "blue-deployment.yml", "all_traffic": True},
    ),
    (
        "online-endpoint invoke --name E --request-file sample-request.json",
        "endpoints:invoke",
        {"request_file": "sample-request.json", "deployment_name": None},
    ),
    (
        "online-deployment update --name blue --endpoint-name E --set instance_count=2",
        "deployments:update",
        {"set": ["instance_count=2"], "file": None},
    ),
    (
        "online-deployment create --name green --endpoint-name E -f green-deployment.yml",
        "deployments:create",
        {"all_traffic": False},
    ),
    ("online-endpoint show -n E --query traffic", "endpoints:show", {"name": "E", "query": "traffic"}),
    (
        "online-endpoint invoke --name E --deployment-name green --request-file r.json",
        "endpoints:invoke",
        {"deployment_name": "green"},
    ),
    (
        "online-endpoint get-credentials -n E -o tsv --query primaryKey",
        "endpoints:get_credentials",
        {"output": "tsv", "query": "primaryKey"},
    ),
    (
        'online-endpoint update --name E --mirror-traffic "green=10"',
        "endpoints:update",
        {"mirror_traffic": ["green=10"], "traffic": None},
    ),
    (
        'online-endpoint update --name E --traffic "blue=90 green=10"',
        "endpoints:update",
        {"traffic": ["blue=90 green=10"], "mirror_traffic": None},
    ),
    (
        "online-deployment delete --name blue --endpoint E --yes --no-wait",
        "deployments:delete",
        {"endpoint_name": "E", "yes": True, "no_wait": True},
    ),
    ("online-endpoint delete --name E --yes --no-wait", "endpoints:delete", {"yes": True, "no_wait": True}),
]

OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    ("online-endpoint create -n E", "endpoints:create", {"file": None}),
    ("online-endpoint list -g group -w space -o table", "endpoints:show_all", {"resource_group": "group"}),
    (
        "online-endpoint update -n E --traffic blue=90 green=10",
        "endpoints:update",
        {"traffic": ["blue=90", "green=10"]},
    ),
    ("online-deployment update -f blue.yml", "deployments:update", {"name": None, "endpoint_name": None}),
    ("online-endpoint update -n E --set a=1 b=2 --set c.d=3", "endpoints:update", {"set": ["a=1", "b=2", "c.d=3"]}),
    (
        "online-endpoint regenerate-keys -n E --key-type secondary",
        "endpoints:regenerate_keys",
        {"key_type": "secondary"},
    ),
    ("online-endpoint regenerate-keys -n E --key secondary", "endpoints:regenerate_keys", {"key_type": "secondary"}),
    ("online-endpoint revisions -n E", "endpoints:revisions", {"revision": None}),
    ("online-endpoint rollback -n E --revision 3", "endpoints:rollback", {"revision": 3}),
    ("online-deployment get-logs -n b -e E -l 50", "deployments:get_logs", {"lines": 50}),
    ("online-deployment list -e E", "deployments:show_all", {"endpoint_name": "E"}),
    ("online-deployment restart -n b -e E", "deployments:restart", {"no_wait": False}),
    ("online-deployment create -f d.yml --skip-script-validation", "deployments:create", {"name": None}),
    ("status", "status:status", {"watch": None}),
    ("status -w", "status:status", {"watch": True}),
    (
        "online-endpoint traffic-log -n shop -d blue --since 10m --follow --tail 5",
        "endpoints:traffic_log",
        {"name": "shop", "deployment_name": "blue", "since": "10m", "follow": True, "tail": 5},
    ),
    ("gateway", "up:single", {"otlp": "", "trace_share": 0.01}),
    ("up --otlp http://c:4318 --trace-sample 1", "up:up", {"otlp": "http://c:4318", "trace_share": 1.0}),
    ("up --access-log a.log", "up:up", {"access_log": Path("a.log")}),
    ("events decisions --follow --tail 3", "events:events", {"topic": "decisions", "follow": True, "tail": 3}),
    ("up --port 0 --workers 3", "up:up", {"port": 0, "workers": 3}),
    ("gateway --worker 1 --ready-fd 5", "up:single", {"role": "gateway", "worker": 1, "ready_fd": 5}),
]


@pytest.mark.parametrize(("words", "handler", "expected"), ELEVEN_STEPS + OTHERS, ids=lambda value: str(value)[:60])
def test_a_command_line_means_what_az_means(words: str, handler: str, expected: dict[str, Any]) -> None:
    flags = build_parser().parse_args(shlex.split(words))
    assert flags.handler == f"router.cli.{handler}"
    assert {name: getattr(flags, name) for name in expected} == expected


@pytest.mark.parametrize(
    "words",
    [
        "",
        "online-endpoint",
        "online-endpoint explode",
        "online-endpoint show",
        "online-deployment show -n b",
        "online-deployment create -n b -e E",
        "online-endpoint show -n E -o xml",
        "online-endpoint regenerate-keys -n E --key-type third",
        "online-endpoint rollback -n E --revision last",
        "events gossip",
        "up --access-log -",
        "up --otlp collector:4318",
        "gateway --otlp http://c:4318/v1/traces",
        "gateway --trace-sample 2",
        "up --workers 0",
        "up --port 70000",
    ],
)
def test_a_wrong_command_line_ends_with_status_two(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(shlex.split(words))
    assert ended.value.code == 2
    assert "usage: tidegate" in capsys.readouterr().err


def test_every_handler_exists() -> None:
    import importlib

    for words, _, _ in ELEVEN_STEPS + OTHERS:
        module, _, function = build_parser().parse_args(shlex.split(words)).handler.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
