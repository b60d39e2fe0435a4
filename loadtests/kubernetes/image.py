"""Tidegate's own image, built from `deploy/Dockerfile` as it stands, without a registry and without a daemon.

The base is a small Debian made on this machine, because there may be no registry to pull one from. Both are kept in
Tidegate's cache under the hash of what they are made from, so that only a change is built, and of a change only the layers
that it concerns. How this machine reaches its package index is lent to the build and is not part of the image.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.made_once import alone, made_once, run, say
from router.runtime.settings import default_cache

if TYPE_CHECKING:
    from loadtests.kubernetes.cluster.cluster import Cluster

TOP = Path(__file__).parents[2]
DOCKERFILE = Path("deploy") / "Dockerfile"
CERTIFICATES = Path("/etc/ssl/certs")
KEPT = 3
"""So many older archives stay in the cache; every edit of the code makes another."""
BUILD_SECONDS = 1800.0
_BASE = ["--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm"]
# Nothing of this is used in a container.
_SUPERFLUOUS = (
    "var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*",
    "usr/share/info/*", "etc/hostname", "etc/resolv.conf", "dev/*",
)  # fmt: skip
# Whatever a build mounts or starts ends with it.
_APART = [
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child=KILL",
    "--mount-proc",
    "--propagation",
    "private",
    "--",
]
# What may stand in pip's configuration that says where packages come from.
_PIP_SOURCES = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "cert"}


def missing() -> str | None:
    """Why the image cannot be built here, in words; None when it can or is there already."""
    if built():
        return None
    if os.geteuid() != 0:
        return "building an image without a registry needs root"
    for program in ("buildah", "debootstrap", "unshare"):
        if shutil.which(program) is None:
            return f"building Tidegate's image needs {program}, and there is none on the path (Debian: {program})"
    return None


def built() -> bool:
    """Whether the image of this very code is in the cache."""
    return _archive_path().exists()


def name() -> str:
    """The image's name, which changes with everything that goes into it."""
    return f"tidegate.local/tidegate:{_hash()}"


async def archive() -> Path:
    """An OCI archive of the image, built when it is not there yet. Raises Unmade with the builder's words."""
    home = await made_once(_archive_path().parent, _build, deadline_seconds=BUILD_SECONDS)
    os.utime(home)
    return home / _archive_path().name


async def image(cluster: Cluster) -> str:
    """Give the image to every node of a running cluster; returns its name, for `imagePullPolicy: Never`."""
    path = await archive()
    for node in cluster.node:
        if name() not in await node.images():
            await node.import_image(path)
    return name()


# ── the image ──


def _archive_path() -> Path:
    return default_cache() / f"image-{_hash()}" / "tidegate.tar"


def _hash() -> str:
    digest = hashlib.sha256(_base_hash().encode())
    for path in sorted(_context()):
        digest.update(f"{path.relative_to(TOP)}\0{os.access(path, os.X_OK)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _context() -> list[Path]:
    """The files that the Dockerfile can see, and the Dockerfile: what `.dockerignore` lets in."""
    let_in = [line[1:].strip("/") for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    files = [TOP / DOCKERFILE, TOP / ".dockerignore"]
    for entry in let_in:
        path = TOP / entry
        files += [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return [path for path in files if "__pycache__" not in path.parts and path.suffix != ".pyc"]


async def _build(made: Path) -> None:
    # One at a time: who is done forgets images that are in nobody's cache, and another's is not there before it is pushed.
    async with alone(default_cache() / ".images.lock", deadline_seconds=BUILD_SECONDS):
        await _build_alone(made)


async def _build_alone(made: Path) -> None:
    base = await _base_image()
    say("building Tidegate's image")
    lent = made.parent / "lent"
    lent.mkdir()
    (lent / "pip.conf").write_text(_pip_configuration())
    lending = [f"--volume={lent / 'pip.conf'}:/etc/pip.conf:ro"]
    if CERTIFICATES.is_dir():
        lending.append(f"--volume={CERTIFICATES}:{CERTIFICATES}:ro")
    await _buildah(
        "build", "--layers", "--isolation=chroot", f"--build-arg=BASE={base}", "--build-arg=COMPILE=0", *lending,
        f"--file={TOP / DOCKERFILE}", f"--tag={name()}", str(TOP),
    )  # fmt: skip
    # Unpacked layers: a node reads them in half the time, and the disk is this machine's own.
    await _buildah("push", "--disable-compression", name(), f"oci-archive:{made / _archive_path().name}:{name()}")
    await _forget_old()


async def _forget_old() -> None:
    kept = sorted(default_cache().glob("image-*/"), key=lambda folder: folder.stat().st_mtime, reverse=True)[:KEPT]
    tags = {folder.name.removeprefix("image-") for folder in kept} | {_hash()}
    for folder in default_cache().glob("image-*/"):
        if folder.name.removeprefix("image-") not in tags:
            shutil.rmtree(folder)
    listed = await _buildah("images", "--format={{.Name}}:{{.Tag}}", "--filter=reference=tidegate.local/tidegate")
    for old in listed.split():
        if old.rpartition(":")[2] not in tags:
            await _buildah("rmi", old)


async def _buildah(*words: str) -> str:
    store = default_cache() / "buildah"
    where = [f"--root={store / 'storage'}", f"--runroot={store / 'run'}", "--storage-driver=overlay"]
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "BUILDAH_", "STORAGE_"))
    }
    # Seconds where only code has changed, and whoever tests it waits for them: not at the lowest priority.
    return await run(*_APART, "buildah", *where, *words, environment=environment, nice=False)


def _pip_configuration() -> str:
    """pip's configuration of this machine as far as it says where packages come from."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, timeout=60
    )
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if (setting := key.rpartition(".")[2]) in _PIP_SOURCES:
            found[setting] = value.strip("'")
    if (bundle := CERTIFICATES / "ca-certificates.crt").exists():
        found["cert"] = str(bundle)
    return "".join(["[global]\n", *(f"{setting} = {value}\n" for setting, value in found.items())])


# ── what it stands on ──


def _base_hash() -> str:
    return hashlib.sha256(repr((_BASE, _SUPERFLUOUS)).encode()).hexdigest()[:12]


async def _base_image() -> str:
    base = f"tidegate.local/base:{_base_hash()}"
    home = await made_once(default_cache() / f"base-image-{_base_hash()}", _make_base, deadline_seconds=BUILD_SECONDS)
    if base not in (await _buildah("images", "--format={{.Name}}:{{.Tag}}")).split():
        await _buildah("build", f"--tag={base}", f"--file={home / 'Dockerfile'}", str(home))
    return base


async def _make_base(made: Path) -> None:
    say("making a small Debian for images to stand on; once, about 2 minutes")
    root = made.parent / "root"
    await run(*_APART, "debootstrap", *_BASE[:-1], _BASE[-1], root)
    left_out = [f"--exclude=./{pattern}" for pattern in (*_SUPERFLUOUS, "proc/*", "sys/*")]
    await run(
        "tar", "--create", "--numeric-owner", f"--directory={root}", f"--file={made / 'base.tar'}", *left_out, "."
    )
    (made / "Dockerfile").write_text("FROM scratch\nADD base.tar /\nENV LANG=C.UTF-8\n")
