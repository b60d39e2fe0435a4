"""Files that a deployment's object names: uploaded assets, or a ConfigMap, which becomes an asset.

`configmap:<name>` is a folder with one file for each of its keys, `configmap:<name>/<key>` one file of it. It is read
when the object changes and not again: a deployment's code is what it was when it was applied. Whoever wants other code
names another ConfigMap, as kustomize does by itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import tarfile
from collections.abc import AsyncIterator, Mapping
from typing import Any

from router.contract.errors import InvalidSpec, Problem
from router.control.asset_references import FIELDS, Reference
from router.control.assets import Assets
from router.control.content import Document
from router.control.resources.objects import Found
from router.control.resources.translation import at
from router.runtime.kubernetes import CONFIG_MAPS, Absent, Cluster

PREFIX = "configmap:"
_REFERENCE = re.compile(r"configmap:([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)(?:/([-._a-zA-Z0-9]{1,253}))?")


def named(document: Document) -> dict[str, str]:
    """Dotted path → the ConfigMap that stands there, for every key that may name files."""
    found = {path: at(document, path) for path in FIELDS}
    return {path: text for path, text in found.items() if isinstance(text, str) and text.startswith(PREFIX)}


def remembered(found: Found) -> dict[str, str]:
    """What was made of an object's ConfigMaps when it was accepted, as its status says."""
    made = found.status.get("files")
    there = named(found.spec)
    return {path: str(made[path]) for path in there if path in made} if isinstance(made, Mapping) else {}


async def made_of(found: Found, cluster: Cluster, assets: Assets) -> dict[str, str]:
    """Read the ConfigMaps that an object names and store them; path → reference of the asset. Raises `InvalidSpec`."""
    made: dict[str, str] = {}
    problems: list[Problem] = []
    for path, text in named(found.spec).items():
        match = _REFERENCE.fullmatch(text)
        if match is None:
            problems.append(Problem(path, "configmap:<name> or configmap:<name>/<key>", text))
            continue
        name, key = match[1], match[2]
        try:
            config = await cluster.get(CONFIG_MAPS, found.namespace, name)
        except Absent:
            problems.append(Problem(path, f"there is no ConfigMap {name} in namespace {found.namespace} yet", text))
            continue
        content = contents(config)
        if key is not None and key not in content:
            there = ", ".join(sorted(content)) or "none"
            problems.append(Problem(path, f"ConfigMap {name} has no key {key!r}; it has {there}", text))
            continue
        tar = tar_of(content)
        sha256 = hashlib.sha256(tar).hexdigest()
        if not assets.exists(Reference(sha256, "")):
            await assets.store(sha256, _whole(tar))
        made[path] = f"asset:{sha256}" if key is None else f"asset:{sha256}/{key}"
    if problems:
        raise InvalidSpec(problems)
    return made


def contents(config: Mapping[str, Any]) -> dict[str, bytes]:
    """Key → bytes of a ConfigMap."""
    content = {str(name): str(text).encode() for name, text in (config.get("data") or {}).items()}
    for name, text in (config.get("binaryData") or {}).items():
        try:
            content[str(name)] = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise InvalidSpec([Problem(f"binaryData.{name}", "base64")]) from None
    return content


def tar_of(content: Mapping[str, bytes]) -> bytes:
    """A tar that is the same for the same content: what is there already is not stored again."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(content):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content[name]), 0o644
            tar.addfile(info, io.BytesIO(content[name]))
    return sink.getvalue()


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
