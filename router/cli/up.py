"""`tidegate up`: everything on this machine, until SIGTERM or Ctrl-C; then nothing is left running.

One `up` per data folder, and its ports are known to be free before any process starts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from router.app import TreeSettings, run_role, tree
from router.cli.session import Session
from router.compute import objects_passed_on, passed_on
from router.contract.errors import InvalidSpec, Problem, TidegateError, Unavailable
from router.gateway_flags import limits_passed_on, replica_settings, replicas_passed_on, tls_passed_on
from router.runtime import vitals
from router.runtime.credentials import is_loopback
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.opening import check_url
from router.runtime.login import ASSETS_KEY, ASSETS_KEY_FILE, MAKE, TOKEN, for_control
from router.runtime.processes import alive, identity
from router.runtime.settings import DataLayout
from router.supervision import Supervisor

SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux."""
PREDECESSOR_SECONDS = 10.0
"""Longest wait for the processes of an `up` that was killed; the kernel is ending them already."""


class CannotStart(TidegateError):
    """`tidegate up` cannot start here."""

    code = "CannotStart"


def single(session: Session) -> int:
    """`tidegate gateway|mirror|autoscaler|control`: one role in this process."""
    return run_role(session.flags.role, session.flags)


def up(session: Session) -> int:
    """Take the folder and the ports, run the tree, end it in order."""
    flags = session.flags
    data = DataLayout(flags.data.expanduser().absolute())
    log = flags.log or f"embedded:{data.log}"
    where = check_url(log)
    check_login(flags)
    check_certificates(flags)
    prepare(data)
    with only_one(data):
        await_predecessors(data)
        vitals.clear(data.vitals)
        if isinstance(where, KafkaUrl):
            check_broker(where, data)
        with (
            taken_port(flags.host, flags.port, "--port") as port,
            taken_port(flags.control_host, flags.control_port, "--control-port") as control_port,
        ):
            settings = TreeSettings(
                data=data,
                cache=flags.cache.expanduser().absolute(),
                log=log,
                host=flags.host,
                port=port,
                control_host=flags.control_host,
                control_port=control_port,
                gateway_url=(flags.gateway_url or url_of(flags.host, port, scheme_of(flags))).rstrip("/"),
                workers=flags.workers,
                domain=flags.domain,
                drain_seconds=flags.drain_seconds,
                limits=(*limits_passed_on(flags), *tls_passed_on(flags)),
                replicas=replicas_passed_on(flags),
                compute=compute_words(flags, control_port),
                objects=objects_passed_on(flags),
                access_log=flags.access_log.expanduser().absolute() if flags.access_log is not None else None,
            )
            asyncio.run(Up(session, settings).run())
    return 0


def check_login(flags: argparse.Namespace) -> None:
    """What is wrong with the tokens is said here, before anything starts."""
    told: list[Problem] = []
    reached = not is_loopback(flags.control_host)
    asked = reached
    try:
        asked = bool(for_control(flags.control_host).operators)
    except InvalidSpec as error:
        told = [replace(one, field="--control-host") if one.field == "host" else one for one in error.problems]
    pods_fetch = "kubernetes" in (flags.backend or ()) and (reached or bool(flags.kubernetes_control_url))
    if pods_fetch and asked and not (os.environ.get(ASSETS_KEY_FILE) or os.environ.get(ASSETS_KEY)):
        message = (
            "must name a file with a key: the control plane asks for a token, and with --backend kubernetes pods fetch their files "
            f"from it by addresses signed with this key; it is needed beside {TOKEN} ({MAKE})"
        )
        told.append(Problem(ASSETS_KEY_FILE, message))
    if told:
        raise InvalidSpec(told)


def check_certificates(flags: argparse.Namespace) -> None:
    """What is wrong with certificates is said here, before anything starts. Raises `InvalidSpec`."""
    from router.gateway.certificate_store import served
    from router.runtime.replica_tls import Trust

    served(flags.tls_cert, flags.tls_key, flags.tls_dir, ())
    Trust(**replica_settings(flags)).check()


def scheme_of(flags: argparse.Namespace) -> str:
    """What callers speak with the gateway."""
    return "https" if flags.tls_cert or flags.tls_dir else "http"


def compute_words(flags: argparse.Namespace, control_port: int) -> tuple[str, ...]:
    """What the autoscaler is told about backends: pods find this control plane unless another is named."""
    if "kubernetes" in (flags.backend or ()) and not flags.kubernetes_control_url:
        flags.kubernetes_control_url = url_of(flags.control_host, control_port)
    return passed_on(flags)


def prepare(data: DataLayout) -> None:
    """Make the folders, and refuse a folder in which the sockets could not be made."""
    longest = max(len(os.fsencode(path)) for path in (data.mirror_socket, data.autoscaler_socket))
    if longest > SOCKET_PATH_BYTES - 12:
        raise CannotStart(f"the path {data.root} is too long for Unix sockets in it; choose a shorter --data")
    try:
        data.create()
        (data.root / "logs").mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise CannotStart(f"--data {data.root}: {error.strerror}") from None


def check_broker(url: KafkaUrl, data: DataLayout) -> None:
    """Make or check the topics before anything starts, so that what is wrong with them is said here.

    A folder that has worked with the broker before starts without it too.
    """
    from router.runtime.log.kafka_connection import client_options
    from router.runtime.log.kafka_topics import ensure_topics

    try:
        asyncio.run(ensure_topics(url, client_options(url, "up")))
    except Unavailable as error:
        if not data.spool.exists():
            raise CannotStart(f"--log {url}: {error.message}") from None
        message = f"tidegate: {error.message}; starting with what this machine knows, the rest waits in {data.spool}"
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def only_one(data: DataLayout) -> Iterator[None]:
    """Hold the data folder; raises `CannotStart` with the holder's pid."""
    with (data.root / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            hint = "stop that one, or choose another folder with --data"
            raise CannotStart(f"tidegate up already runs on {data.root} (pid {pid}): {hint}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def await_predecessors(data: DataLayout) -> None:
    """Wait for the processes of a killed `up`: two owners of one folder must not overlap."""
    try:
        last = json.loads((data.run / "up.json").read_text())
        known = [tuple(role["identity"]) for role in last["roles"].values() if role["identity"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    deadline = time.monotonic() + PREDECESSOR_SECONDS
    while remaining := [who for who in known if alive(who)]:
        if time.monotonic() > deadline:
            pids = ", ".join(str(who[0]) for who in remaining)
            raise CannotStart(f"processes of an earlier tidegate up still run (pids {pids}): end them first")
        time.sleep(0.02)


@contextlib.contextmanager
def taken_port(host: str, port: int, flag: str) -> Iterator[int]:
    """The port, known to be free and kept from others while the tree runs; with 0 one that is picked once.

    A socket that is bound but does not listen keeps the port: the roles may bind beside it (SO_REUSEADDR or
    SO_REUSEPORT), also when one of them is started again.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            found: int = probe.getsockname()[1]
        holder = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        hint = f"choose another with {flag}" if port else "choose another address"
        raise CannotStart(f"cannot listen on {host}:{port} ({error.strerror}): {hint}") from None
    with holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((address[0], found, *address[2:]))
        yield found


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """How a client on this machine reaches `host`:`port`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    bracketed = f"[{reachable}]" if ":" in reachable and "[" not in reachable else reachable
    return f"{scheme}://{bracketed}:{port}"


class Up:
    """One run of the tree."""

    def __init__(self, session: Session, settings: TreeSettings) -> None:
        self._session = session
        self._settings = settings
        self._about = settings.data.run / "up.json"
        self._is_ready = False
        self._supervisor = Supervisor(tree(settings), notify=self._say, changed=self._write)

    async def run(self) -> None:
        """Until a signal comes. The second one ends without waiting for open exchanges."""
        stop = asyncio.Event()

        def heard() -> None:
            if stop.is_set():
                self._supervisor.hurry.set()
            else:
                self._say("ending: open exchanges first, then the replicas")
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, heard)
        with contextlib.suppress(FileNotFoundError):
            self._about.unlink()
        started = time.monotonic()
        try:
            await self._supervisor.run(stop, lambda: self._announce(time.monotonic() - started))
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._about.unlink()
        self._say("ended; nothing is left running")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone must not end the tree
            print(f"tidegate: {line}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        """`run/up.json`: there from the moment when everything is ready; names the newest processes."""
        if not self._is_ready:
            return
        told: dict[str, Any] = {
            "pid": os.getpid(),
            "gateway_url": self._settings.gateway_url,
            "control_url": url_of(self._settings.control_host, self._settings.control_port),
            "metrics_url": url_of(self._settings.control_host, self._settings.control_port) + "/metrics",
            "data": str(self._settings.data.root),
            "roles": {
                name: {**state, "identity": identity(state["pid"]) if state["pid"] else None}
                for name, state in self._supervisor.state().items()
            },
        }
        new = self._about.with_suffix(".new")
        new.write_text(json.dumps(told, indent=2) + "\n")
        new.replace(self._about)

    def _announce(self, seconds: float) -> None:
        self._is_ready = True
        self._write()
        settings = self._settings
        control = url_of(settings.control_host, settings.control_port)
        default = "" if control == "http://127.0.0.1:8081" else f"export TIDEGATE_URL={control}; "
        lines = (
            f"Tidegate is up after {seconds:.1f} s, with {settings.workers} gateway worker{'s' * (settings.workers > 1)}",
            f"  endpoints   {settings.gateway_url}/endpoints/<name>/score",
            f"  control     {control}",
            f"  metrics     {control}/metrics",
            f"  data        {settings.data.root}",
            f"  next        {default}tidegate online-endpoint create -f endpoint.yml",
            "  end         Ctrl-C",
        )
        with contextlib.suppress(OSError):
            print("\n".join(lines), flush=True)
