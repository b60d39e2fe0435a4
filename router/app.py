"""Wiring: what a role needs is built here and handed to it. The only module that knows every part.

Each role imports its own code only inside its own process: a gateway worker never pays for the control plane's memory.
Signals: SIGTERM and SIGINT end a role in good order. The autoscaler leaves its replicas running then, for the next one
to adopt; SIGUSR1 ends them too (`tidegate up` sends it when the whole tree ends).

With the log on Kafka every data folder needs a shipper. `tidegate up` runs one; a role started alone brings its own, and
of several on one folder one works while the others stand by.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from router.compute import add_backend_arguments, add_object_arguments, object_settings
from router.contract.errors import TidegateError
from router.gateway_flags import (
    add_limit_arguments,
    add_replica_arguments,
    add_tls_arguments,
    limit_settings,
    replica_settings,
    tls_settings,
)
from router.leading import add_lease_argument
from router.runtime.settings import (
    AutoscalerSettings,
    ControlSettings,
    DataLayout,
    GatewaySettings,
    MirrorSettings,
    default_cache,
)

if TYPE_CHECKING:
    import asyncio  # the command line's own start must not pay for it

    from autoscaler.backends.base import Backend
    from router.runtime.log.base import Log
    from router.supervision import Role

ROLES = ("control", "autoscaler", "mirror", "gateway", "shipper")
_LOG = logging.getLogger(__name__)


def default_data() -> Path:
    """`$TIDEGATE_DATA`, else the user's data folder: what runs does not depend on the folder a command is typed in."""
    named = os.environ.get("TIDEGATE_DATA")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tidegate"


@dataclass(slots=True)
class Stopping:
    """How a role is told to end."""

    stop: asyncio.Event
    for_good: bool = False
    """Whether the replicas end too."""

    def listen(self) -> None:
        """Install the signal handlers in the running loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._finish)

    def _finish(self) -> None:
        self.for_good = True
        self.stop.set()


OnReady = Callable[[], None]
_HOME = Path(__file__).resolve().parents[1]
"""Where `-m router.app` is found, installed or not."""


async def _control(flags: argparse.Namespace, data: DataLayout, log: Log, stopping: Stopping, ready: OnReady) -> None:
    from router.control.service import run
    from router.runtime.credentials import for_posting
    from router.runtime.login import for_control

    readers = tuple(flags.autoscaler or ())
    settings = ControlSettings(
        data,
        host=flags.host,
        port=flags.port,
        gateway_url=flags.gateway_url,
        login=for_control(flags.host),
        autoscaler=readers,
        credentials=for_posting(readers),
        objects=object_settings(flags),
        access_log=flags.access_log,
    )
    await run(settings, log, stopping.stop, ready)


async def _mirror(flags: argparse.Namespace, data: DataLayout, log: Log, stopping: Stopping, ready: OnReady) -> None:
    from mirror.service import run
    from router.runtime.credentials import for_posting

    targets = _autoscalers(flags, data)
    await run(
        MirrorSettings(
            data,
            autoscaler=targets,
            credentials=for_posting(targets),
            metrics=flags.metrics,
            **replica_settings(flags),
        ),
        log,
        stopping.stop,
        ready,
    )


async def _gateway(flags: argparse.Namespace, data: DataLayout, log: Log, stopping: Stopping, ready: OnReady) -> None:
    from router.gateway.worker import run
    from router.runtime.credentials import for_posting

    targets = _autoscalers(flags, data)
    settings = GatewaySettings(
        data,
        host=flags.host,
        port=flags.port,
        worker=flags.worker,
        workers=flags.workers,
        domain=flags.domain,
        drain_seconds=flags.drain_seconds,
        autoscaler=targets,
        credentials=for_posting(targets),
        **limit_settings(flags),
        **tls_settings(flags),
        **replica_settings(flags),
        take_over=flags.take_over,
    )
    await run(settings, log, stopping.stop, ready)


def _autoscalers(flags: argparse.Namespace, data: DataLayout) -> tuple[str, ...]:
    """Who gets demand past the log: with the log on Kafka the autoscaler of this machine, unless others are named."""
    named = tuple(flags.autoscaler or ())
    if named:
        return () if named == ("none",) else named
    return (f"unix:{data.autoscaler_socket}",) if _on_kafka(_log_url(flags, data)) else ()


async def _autoscaler(
    flags: argparse.Namespace, data: DataLayout, log: Log, stopping: Stopping, ready: OnReady
) -> None:
    from autoscaler.control.service import run
    from router.compute import backends
    from router.leading import leading
    from router.runtime.credentials import for_listening
    from router.runtime.login import signing_key

    made = backends(flags, data, signing_key())
    settings = AutoscalerSettings(
        data, flags.cache, scoring_url=flags.gateway_url, listen=flags.listen, credentials=for_listening(flags.listen)
    )
    async with contextlib.AsyncExitStack() as ends:
        if not await ends.enter_async_context(leading(flags, stopping.stop)):
            return
        for backend in made.values():
            ends.push_async_callback(_let_go, backend, stopping)
        await run(settings, made, log, stopping.stop, ready, default_backend=next(iter(made)))


async def _let_go(backend: Backend, stopping: Stopping) -> None:
    await backend.close(end_replicas=stopping.for_good)


_RUN = {"control": _control, "autoscaler": _autoscaler, "mirror": _mirror, "gateway": _gateway}


def add_role_arguments(parser: argparse.ArgumentParser, role: str) -> None:
    """The flags of one role: the same for `tidegate ROLE` and for the processes of `tidegate up`."""
    parser.add_argument("--data", type=Path, default=default_data(), help="data folder (default: %(default)s)")
    parser.add_argument("--log", help="the log's address (default: embedded:DATA/log)")
    parser.add_argument("--ready-fd", type=int, help="file descriptor that gets one byte when the role is ready")
    if role in ("control", "gateway"):
        port = 8080 if role == "gateway" else 8081
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=port, help="port to listen on (default: %(default)s)")
    if role in ("control", "autoscaler"):
        url = "http://127.0.0.1:8080"
        parser.add_argument("--gateway-url", default=url, help="base of scoring URIs (default: %(default)s)")
    if role != "shipper":
        parser.add_argument(
            "--no-shipper", action="store_true", help="with a log on Kafka: another process ships what this one appends"
        )
    if role == "control":
        parser.add_argument(
            "--autoscaler",
            action="append",
            metavar="URL",
            help="who reads the logs of deployments: unix:/path, or http[s]://host:port with TIDEGATE_DEMAND_*; may be "
            "repeated (default: the autoscaler of the same data folder)",
        )
    if role in ("gateway", "mirror"):
        add_replica_arguments(parser)
        parser.add_argument(
            "--autoscaler",
            action="append",
            metavar="URL",
            help="with a log on Kafka: who gets demand directly too, unix:/path, http://host:port or https://host:port, "
            "with token and certificates in TIDEGATE_DEMAND_*; may be repeated; 'none' for nobody (default: the "
            "autoscaler of the same data folder)",
        )
    if role == "control":
        add_object_arguments(parser, alone=True)
        parser.add_argument(
            "--access-log",
            metavar="FILE",
            help="append a line of JSON for every finished request; - is standard output",
        )
    if role == "autoscaler":
        add_backend_arguments(parser)
        add_lease_argument(parser)
        cache = default_cache()
        parser.add_argument("--cache", type=Path, default=cache, help="built environments (default: %(default)s)")
        parser.add_argument(
            "--listen",
            type=host_and_port,
            metavar="HOST:PORT",
            help="where gateways of other machines hand demand over, with token and certificates in TIDEGATE_DEMAND_*",
        )
    if role in ("mirror", "shipper"):
        whose = "its own" if role == "mirror" else "this machine's"
        parser.add_argument(
            "--metrics",
            type=host_and_port,
            metavar="HOST:PORT",
            help=f"serve {whose} metrics to Prometheus, and /healthz",
        )
    if role == "gateway":
        parser.add_argument("--worker", type=int, default=0, help="index of this worker on this machine")
        parser.add_argument("--workers", type=int, default=1, help="workers on this machine that share the port")
        parser.add_argument("--domain", default="localhost", help="endpoints answer at <endpoint>.DOMAIN too")
        parser.add_argument("--drain-seconds", type=float, default=30.0, help="longest wait for open exchanges")
        parser.add_argument(
            "--take-over",
            action="store_true",
            help="take the listening socket of the worker that serves under this index now, which then drains and ends",
        )
        add_limit_arguments(parser)
        add_tls_arguments(parser)


def host_and_port(text: str) -> tuple[str, int]:
    """`host:port`, IPv6 in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"write HOST:PORT with a port up to 65535, not {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def run_role(role: str, flags: argparse.Namespace) -> int:
    """Run one role in this process until it is told to end."""
    import asyncio

    from router.runtime import telemetry

    telemetry.configure(role)
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if role in ("gateway", "mirror"):
        import uvloop

        factory = uvloop.new_event_loop
    flags.data = flags.data.absolute()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(role, flags))
    return 0


async def _serve(role: str, flags: argparse.Namespace) -> None:
    import asyncio

    data = DataLayout(flags.data)
    data.create()
    stopping = Stopping(asyncio.Event())
    stopping.listen()
    url = _log_url(flags, data)
    if role == "shipper":
        await _ship(url, flags, data, stopping)
        return
    from router.runtime.log.opening import open_log

    instance = _instance(data) if role == "autoscaler" else None
    log = open_log(url, spool=data.spool, role=role, instance=instance)
    async with _own_shipper(url, flags, data, stopping):
        try:
            await _RUN[role](flags, data, log, stopping, lambda: report_ready(flags.ready_fd))
        finally:
            await log.close()


def _log_url(flags: argparse.Namespace, data: DataLayout) -> str:
    return str(flags.log or f"embedded:{data.log}")


def _on_kafka(url: str) -> bool:
    from router.runtime.log.opening import check_url

    return not isinstance(check_url(url), Path)


def _instance(data: DataLayout) -> str:
    """What the autoscaler of the folder is called among all, the same after every restart."""
    with contextlib.suppress(FileExistsError), data.instance.open("x") as file:
        file.write(uuid.uuid4().hex)
    return data.instance.read_text().strip()


async def _ship(url: str, flags: argparse.Namespace, data: DataLayout, stopping: Stopping) -> None:
    from router.contract.errors import InvalidSpec, Problem
    from router.runtime.log.opening import check_url, spool_bytes
    from router.runtime.log.shipper import ShipperSettings, run

    where = check_url(url)
    if isinstance(where, Path):
        raise InvalidSpec([Problem("log", "a shipper serves a log on Kafka: kafka://host:port", url)])
    settings = ShipperSettings(
        spool_bytes=spool_bytes(os.environ),
        metrics=flags.metrics,
        vitals=data.vitals,
        further_vitals=(data.autoscaler_socket,),
    )
    await run(where, data.spool, stopping.stop, lambda: report_ready(flags.ready_fd), settings=settings)


@contextlib.asynccontextmanager
async def _own_shipper(
    url: str, flags: argparse.Namespace, data: DataLayout, stopping: Stopping
) -> AsyncIterator[None]:
    """With the log on Kafka, a shipper beside this role, for as long as the role lives."""
    if flags.no_shipper or not _on_kafka(url):
        yield
        return
    import asyncio

    from router.supervision import Backoff, Keeper, StartFailed

    keeper = Keeper(_shipper_role(data, url, None), Backoff(), _LOG.warning, lambda: None)
    keeping = asyncio.create_task(keeper.keep(), name="keep shipper")
    keeping.add_done_callback(lambda _: stopping.stop.set())
    try:
        yield
    finally:
        await keeper.end(asyncio.Event())
        with contextlib.suppress(StartFailed):  # it has said so itself; without it the role has ended
            await keeping


def _shipper_role(data: DataLayout, url: str, output: Path | None, stage: int = 1) -> Role:
    from router.supervision import Role

    command = (sys.executable, "-m", "router.app", "shipper", f"--data={data.root}", f"--log={url}")
    return Role("shipper", command, stage, output, grace_seconds=15, cwd=_HOME)


def report_ready(ready_fd: int | None) -> None:
    """Tell whoever started this process that it does its work now."""
    if ready_fd is not None:
        os.write(ready_fd, b"1")
        os.close(ready_fd)


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """The whole of `tidegate up`."""

    data: DataLayout
    cache: Path
    log: str
    host: str
    port: int
    control_host: str
    control_port: int
    gateway_url: str
    workers: int
    domain: str = "localhost"
    drain_seconds: float = 30.0
    replicas: tuple[str, ...] = ()
    """The gateway's and the mirror's words about replicas that speak TLS."""
    limits: tuple[str, ...] = ()
    """The gateway's words about its limits and about TLS."""
    compute: tuple[str, ...] = ()
    """The autoscaler's words about backends."""
    objects: tuple[str, ...] = ()
    """The control plane's words about objects in Kubernetes."""
    access_log: Path | None = None


def tree(settings: TreeSettings) -> list[Role]:
    """The roles of `tidegate up`, first the one whose replicas take longest to start.

    They end in this order: gateways, mirror, autoscaler with its replicas, control, and what ships their last words.
    """
    from router.supervision import Role

    logs = settings.data.root / "logs"
    kafka = _on_kafka(settings.log)

    def role(name: str, kind: str, stage: int, grace_seconds: float, flags: Mapping[str, object], *words: str) -> Role:
        own = [*(f"--{flag}={value}" for flag, value in flags.items()), *words]
        shared = [f"--data={settings.data.root}", f"--log={settings.log}", "--no-shipper"]
        return Role(
            name,
            (sys.executable, "-m", "router.app", kind, *shared, *own),
            stage,
            logs / f"{name.replace(' ', '-')}.log",
            stop_signal=signal.SIGUSR1 if kind == "autoscaler" else signal.SIGTERM,
            grace_seconds=grace_seconds,
            cwd=_HOME,
            drains=kind == "gateway",
            finishes=kind == "autoscaler",
        )

    listen = {"host": settings.host, "port": settings.port, "domain": settings.domain, "workers": settings.workers}
    drain = {"drain-seconds": settings.drain_seconds}
    control: dict[str, object] = {
        "host": settings.control_host,
        "port": settings.control_port,
        "gateway-url": settings.gateway_url,
    }
    if settings.access_log is not None:
        control["access-log"] = settings.access_log
    scaler = {"cache": settings.cache, "gateway-url": settings.gateway_url}
    return [
        role("autoscaler", "autoscaler", 3, 60, scaler, *settings.compute),
        *(
            role(
                f"gateway {index}",
                "gateway",
                1,
                settings.drain_seconds + 5,
                {**listen, **drain, "worker": index},
                *settings.limits,
                *settings.replicas,
            )
            for index in range(settings.workers)
        ),
        role("mirror", "mirror", 2, 10, {}, *settings.replicas),
        role("control", "control", 4, 10, control, *settings.objects),
        *([_shipper_role(settings.data, settings.log, logs / "shipper.log", stage=5)] if kafka else []),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m router.app ROLE …`: a role without the command line's code in memory."""
    parser = argparse.ArgumentParser(prog="tidegate")
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ROLES:
        add_role_arguments(roles.add_parser(role), role)
    flags = parser.parse_args(arguments)
    try:
        return run_role(flags.role, flags)
    except TidegateError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)  # noqa: T201 -- the role's own output
        return 1


if __name__ == "__main__":
    sys.exit(main())
