"""The command line's grammar: az's words, az's abbreviations (argparse's own), nothing executed.

Each leaf names its handler as `module:function`, imported only when the command runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from router.app import ROLES, add_role_arguments
from router.cli.output import FORMATS
from router.contract.events import TOPICS

Parsers = Any
"""What `add_subparsers` returns; argparse keeps the type private."""

IGNORED = {
    "resource_group": ("-g", "--resource-group"),
    "workspace_name": ("-w", "--workspace-name"),
    "subscription": ("--subscription",),
}
"""az's flags that take a value and mean nothing here."""


def common() -> argparse.ArgumentParser:
    """What every az-like command takes."""
    parent = argparse.ArgumentParser(add_help=False)
    shown = parent.add_argument_group("output")
    shown.add_argument("--output", "-o", choices=FORMATS, help="format of the answer (default: json)")
    shown.add_argument("--query", metavar="JMESPATH", help="print this part of the answer only")
    shown.add_argument("--only-show-errors", action="store_true", help="no warnings, notes and progress")
    shown.add_argument("--verbose", action="store_true", help="more lines about what is done")
    shown.add_argument("--debug", action="store_true", help="a traceback with every error")
    az = parent.add_argument_group("accepted for az's sake, without effect")
    for dest, names in IGNORED.items():
        az.add_argument(*names, dest=dest, metavar="NAME", help=argparse.SUPPRESS if dest != "subscription" else "")
    az.add_argument("--local", action="store_true", help="refused: everything is local already")
    return parent


def _name(parser: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    parser.add_argument("--name", "-n", required=required, metavar="NAME", help=f"name of the {what}")


def _endpoint(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--endpoint-name", "-e", required=required, metavar="NAME", help="name of the endpoint")


def _file(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    parser.add_argument("--file", "-f", required=required, metavar="YAML", help=f"the {what}'s YAML file")


def _set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change one value, as in --set instance_count=2 request_settings.request_timeout_ms=9000",
    )


def _no_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="return as soon as the change is accepted")


def _yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _traffic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traffic",
        nargs="+",
        metavar="NAME=PERCENT",
        help='live traffic, as in "blue=90 green=10"; the sum is 0 or 100',
    )
    parser.add_argument(
        "--mirror-traffic",
        nargs="+",
        metavar="NAME=PERCENT",
        help='mirrored traffic, as in "green=10"; green=0 ends it',
    )


class Group:
    """One group of commands, such as `online-endpoint`."""

    def __init__(self, parsers: Parsers, name: str, text: str, module: str) -> None:
        self._module = module
        parser = parsers.add_parser(name, help=text, description=text)
        self._commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
        self._common = common()

    def add(self, name: str, text: str) -> argparse.ArgumentParser:
        """One command of the group; `get-logs` runs `get_logs` of the group's module."""
        parser: argparse.ArgumentParser = self._commands.add_parser(
            name, help=text, description=text, parents=[self._common]
        )
        function = "show_all" if name == "list" else name.replace("-", "_")
        parser.set_defaults(handler=f"{self._module}:{function}")
        return parser


def _endpoint_group(parsers: Parsers) -> None:
    group = Group(parsers, "online-endpoint", "endpoints: stable addresses for models", "router.cli.endpoints")
    create = group.add("create", "Create an endpoint, or replace the settings of an existing one.")
    update = group.add("update", "Change an endpoint: its traffic, its mirroring, any setting.")
    for parser, required in ((create, False), (update, False)):
        _name(parser, "endpoint", required=required)
        _file(parser, "endpoint")
        _set(parser)
        _traffic(parser)
        _no_wait(parser)
    create.add_argument("--auth-mode", choices=("key", "aml_token", "aad_token"), help="how callers prove who they are")
    _name(group.add("show", "Show one endpoint."), "endpoint")
    group.add("list", "List the endpoints.")
    delete = group.add("delete", "Delete an endpoint with all its deployments.")
    _name(delete, "endpoint")
    _yes(delete)
    _no_wait(delete)
    _invoke(group)
    _traffic_log(group)
    _name(group.add("get-credentials", "Show the two keys of an endpoint."), "endpoint")
    regenerate = group.add("regenerate-keys", "Replace one of the two keys; the old one ends at once.")
    _name(regenerate, "endpoint")
    regenerate.add_argument("--key-type", "--key", choices=("primary", "secondary"), default="primary")
    _yes(regenerate)
    _no_wait(regenerate)
    revisions = group.add("revisions", "List the last revisions of an endpoint, or show one.")
    _name(revisions, "endpoint")
    revisions.add_argument("--revision", type=int, metavar="N", help="show this one with its whole content")
    rollback = group.add("rollback", "Make an earlier revision the current one again.")
    _name(rollback, "endpoint")
    rollback.add_argument("--revision", type=int, required=True, metavar="N", help="the revision to return to")
    _no_wait(rollback)


def _traffic_log(group: Group) -> None:
    text = "Print the newest requests of an endpoint: one line of JSON each, in the columns of Azure's traffic log."
    log = group.add("traffic-log", text)
    _name(log, "endpoint")
    log.add_argument("--deployment-name", "-d", metavar="NAME", help="only those of this deployment")
    log.add_argument("--since", metavar="WHEN", help="only later ones: 90s, 10m, 2h, 1d ago, or a time (RFC 3339)")
    log.add_argument("--tail", type=int, metavar="N", help="only the newest N (default: 100, with --since 10000)")
    log.add_argument("--follow", action="store_true", help="go on with each request as it ends")


def _invoke(group: Group) -> None:
    invoke = group.add("invoke", "Send one request to an endpoint and print the answer.")
    _name(invoke, "endpoint")
    invoke.add_argument("--request-file", "-r", required=True, metavar="FILE", help="the request's body; - is stdin")
    invoke.add_argument("--deployment-name", "-d", metavar="NAME", help="this deployment, whatever its traffic")
    invoke.add_argument("--content-type", default="application/json", help="default: %(default)s")
    invoke.add_argument(
        "--cacert",
        metavar="FILE",
        help="trust the authorities in this PEM file for https (default: the system's, or those in SSL_CERT_FILE)",
    )


def _deployment_group(parsers: Parsers) -> None:
    text = "deployments: model versions behind an endpoint"
    group = Group(parsers, "online-deployment", text, "router.cli.deployments")
    create = group.add("create", "Create a deployment, or replace the settings of an existing one.")
    update = group.add("update", "Change a deployment; what needs no new replicas applies to the running ones.")
    for parser in (create, update):
        _name(parser, "deployment", required=False)
        _endpoint(parser, required=False)
        _file(parser, "deployment", required=parser is create)
        _set(parser)
        _no_wait(parser)
        parser.add_argument("--skip-script-validation", action="store_true", help="accepted, without effect")
    create.add_argument("--all-traffic", action="store_true", help="once it is ready, send it all live traffic")
    listing = group.add("list", "List the deployments of an endpoint.")
    _endpoint(listing)
    for name, what in (
        ("show", "Show one deployment."),
        ("delete", "Delete a deployment."),
        ("get-logs", "Print the newest output of a deployment's replicas."),
        ("restart", "Replace every replica, one by one, without losing a request."),
    ):
        parser = group.add(name, what)
        _name(parser, "deployment")
        _endpoint(parser)
        if name == "delete":
            _yes(parser)
        if name in ("delete", "restart"):
            _no_wait(parser)
        if name == "get-logs":
            parser.add_argument("--lines", "-l", type=int, default=5000, metavar="N", help="default: %(default)s")
            parser.add_argument("--container", "-c", metavar="NAME", help="accepted, without effect")


def _asset_group(parsers: Parsers) -> None:
    text = "files that documents and Kubernetes objects name as asset:<sha256>"
    group = Group(parsers, "asset", text, "router.cli.uploads")
    upload = group.add("upload", "Upload a file or folder, and print what to write where it is to be used.")
    upload.add_argument("path", metavar="PATH", help="the file or folder")
    upload.add_argument(
        "--model", action="store_true", help="a model's folder: it keeps its name inside AZUREML_MODEL_DIR, as in Azure"
    )


def _machine(parsers: Parsers) -> None:
    from router.cli.up_flags import add_up_arguments

    up = parsers.add_parser(
        "up",
        help="run everything on this machine",
        description="Run gateway, mirror, autoscaler and control plane as one supervised process tree.",
    )
    add_up_arguments(up)
    up.set_defaults(handler="router.cli.up:up")
    status = parsers.add_parser(
        "status",
        help="what runs: traffic, replicas, latency",
        description="Show endpoints, deployments and their load.",
    )
    status.add_argument(
        "--watch", "-w", action="store_true", default=None, help="keep it up to date (default on a terminal)"
    )
    status.add_argument("--once", dest="watch", action="store_false", help="print it once (default elsewhere)")
    status.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="default: %(default)s")
    status.add_argument("--output", "-o", choices=("table", *FORMATS), help="default: table")
    status.add_argument("--query", metavar="JMESPATH", help="print this part only")
    status.set_defaults(handler="router.cli.status:status")
    events = parsers.add_parser(
        "events", help="what happened, from the log", description="Print one topic of the log, one JSON object a line."
    )
    events.add_argument("topic", choices=TOPICS, metavar="TOPIC", help=", ".join(TOPICS))
    events.add_argument("--follow", action="store_true", help="wait for more")
    events.add_argument("--tail", type=int, metavar="N", help="only the last N messages")
    events.set_defaults(handler="router.cli.events:events")
    text = "make a token for operators, metrics or demand"
    token = parsers.add_parser("token", help=text, description=f"{text[0].upper()}{text[1:]}: 256 random bits.")
    token.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="put one into each of these that is not there (default: print one)",
    )
    token.set_defaults(handler="router.cli.tokens:token")
    version = parsers.add_parser("version", help="print the version")
    version.set_defaults(handler="router.cli.main:version")


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    parser = argparse.ArgumentParser(
        prog="tidegate",
        description="Online endpoints for ML models: traffic splitting, mirroring, autoscaling.",
        epilog="TIDEGATE_URL names the control plane (default http://127.0.0.1:8081), TIDEGATE_CONTROL_TOKEN_FILE its token. "
        "Start with `tidegate up`; scripts for `az ml` work with `az ml` replaced by `tidegate`.",
    )
    parsers = parser.add_subparsers(dest="group", metavar="COMMAND", required=True)
    _endpoint_group(parsers)
    _deployment_group(parsers)
    _asset_group(parsers)
    _machine(parsers)
    for role in ROLES:
        text = f"run one {role} process alone (`up` runs all of them)"
        add_role_arguments(single := parsers.add_parser(role, help=text, description=text), role)
        single.set_defaults(handler="router.cli.up:single", role=role)
    return parser
