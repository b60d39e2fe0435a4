"""From a deployment's document to what a replica runs: arguments, environment variables, folder, routes, probes.

Pure: paths are computed, never looked at. What this machine cannot run raises `Unlaunchable` with a word of Azure's
error vocabulary and the way out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from router.contract.specs import Probe

PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""What a replica inherits; everything else of Tidegate's own environment (keys, tokens) stays out."""

GUNICORN_SETTINGS = Path(__file__).with_name("gunicorn_settings.py")
_ASSET = re.compile(r"asset:(?P<digest>[0-9a-f]{64})(?:/(?P<path>.+))?")


class Unlaunchable(Exception):
    """A document that cannot run on this backend."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Probes:
    """The routes to ask and how patiently."""

    readiness_path: str = "/"
    liveness_path: str = "/"
    readiness: Probe = field(default_factory=Probe)
    liveness: Probe = field(default_factory=Probe)
    startup: Probe | None = None
    secure: bool = False
    """Whether they are asked over TLS."""
    http2: bool = False
    """Whether the server speaks nothing but HTTP/2: where it has no port for probes, it is asked whether it does."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be there before a replica can start."""

    conda_file: Path | None
    server: bool
    """Whether Azure's inference server belongs into the environment."""
    paths: Mapping[str, Path] = field(default_factory=dict)
    """Field of the document → file or folder that must exist."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to run one replica. `{port}` and `{host}` in `argv` are filled in at every start."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    """Empty for the replica's own working folder."""
    listening_socket: bool
    """Whether the server takes over a socket that listens already (socket activation) instead of binding one."""
    probes: Probes


def asset_path(assets: Path, reference: str, name: str) -> Path:
    """Where `asset:<sha256>[/path]` lies. Raises `Unlaunchable` for anything else."""
    found = _ASSET.fullmatch(reference)
    inside = PurePosixPath((found and found["path"]) or ".")
    if found is None or ".." in inside.parts or inside.is_absolute():
        if reference.startswith("azureml:"):
            message = f"{name}: {reference} is a registered name, and nothing is registered here; give a local path"
            raise Unlaunchable("ResourceNotFound", message)
        raise Unlaunchable("BadArgument", f"{name}: {reference!r} is not an uploaded file or folder")
    return assets / found["digest"] / inside


def needs(document: Mapping[str, Any], assets: Path) -> Needs:
    """What `document` needs. Raises `Unlaunchable`."""
    environment = section(document, "environment")
    command, script = command_of(document), script_of(document)
    if not command and script is None:
        raise Unlaunchable("BadArgument", _nothing_to_run(environment))
    conda = environment.get("conda_file")
    if conda is None and not command and not environment.get("image") and environment.get("name"):
        message = f"environment: {environment['name']!r} is not registered here; give a conda_file"
        raise Unlaunchable("ResourceNotFound", message)
    conda_file = None if conda is None else asset_path(assets, str(conda), "environment.conda_file")
    paths = {} if conda_file is None else {"environment.conda_file": conda_file}
    code = code_folder(document, assets)
    if code is not None:
        paths["code_configuration.code"] = code
    if code is not None and script is not None and not command:
        paths["code_configuration.scoring_script"] = code / script
    model = section(document, "model").get("path")
    if model is not None:
        paths["model.path"] = asset_path(assets, str(model), "model.path")
    return Needs(conda_file, server=not command, paths=paths)


def _nothing_to_run(environment: Mapping[str, Any]) -> str:
    if environment.get("image"):
        return (
            f"the image {environment['image']!r} needs a Kubernetes cluster (compute: azureml:<cluster>); to run "
            "without one, name the server's command line under `tidegate: {command: [...]}` with {port} for the port"
        )
    return (
        "nothing says what to run: give code_configuration.scoring_script, or `tidegate: {command: [...]}` "
        "with {port} for the port"
    )


def section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One section of `document`, empty where there is none. Raises `Unlaunchable` for a registered name."""
    value = document.get(name)
    if isinstance(value, str):
        message = f"{name}: {value} is a registered name, and nothing is registered here; write the {name} inline"
        raise Unlaunchable("ResourceNotFound", message)
    return value or {}


def command_of(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The server's command line, where the document gives one."""
    return tuple(str(word) for word in (document.get("tidegate") or {}).get("command") or ())


def script_of(document: Mapping[str, Any]) -> str | None:
    """The scoring script, as a path in the code folder. Raises `Unlaunchable` for one that is outside of it."""
    script = (document.get("code_configuration") or {}).get("scoring_script")
    if script is not None and (PurePosixPath(script).is_absolute() or ".." in PurePosixPath(script).parts):
        raise Unlaunchable("BadArgument", f"code_configuration.scoring_script: {script!r} must lie in the code folder")
    return None if script is None else str(script)


def code_folder(document: Mapping[str, Any], assets: Path) -> Path | None:
    """The folder with the scoring code, if there is one."""
    code = (document.get("code_configuration") or {}).get("code")
    return None if code is None else asset_path(assets, str(code), "code_configuration.code")


def model_folder(document: Mapping[str, Any], assets: Path) -> Path | None:
    """What AZUREML_MODEL_DIR names. As in Azure the model's file or folder keeps its name *inside* it: the uploaded
    root for `asset:<sha256>`, the parent for `asset:<sha256>/model.pkl`.
    """
    path = section(document, "model").get("path")
    if path is None:
        return None
    found = asset_path(assets, str(path), "model.path")
    return found if _ASSET.fullmatch(str(path))["path"] is None else found.parent  # type: ignore[index] # checked above


def plan_launch(document: Mapping[str, Any], assets: Path, environment: Path, inherited: Mapping[str, str]) -> Launch:
    """How to run `document` with the built `environment` (a virtual environment's folder). Raises `Unlaunchable`."""
    code, model = code_folder(document, assets), model_folder(document, assets)
    env = {name: inherited[name] for name in PASSED_ON if name in inherited}
    env |= {name: value for name, value in inherited.items() if name.startswith(("LC_", "NVIDIA_"))}
    env["PATH"] = f"{environment / 'bin'}:{env.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    env |= {"VIRTUAL_ENV": str(environment), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if model is not None:
        env["AZUREML_MODEL_DIR"] = str(model)
    if code is not None:
        env["AML_APP_ROOT"] = str(code)
    wanted = {str(name): str(value) for name, value in (document.get("environment_variables") or {}).items()}
    command, script = command_of(document), script_of(document)
    cwd = "" if code is None else str(code)
    if command:
        return Launch(command, env | wanted, cwd, listening_socket=False, probes=probes(document))
    if code is None or script is None:
        raise Unlaunchable("BadArgument", "code_configuration needs both code and scoring_script")
    env |= {"AZUREML_ENTRY_SCRIPT": str(code / script), "WORKER_COUNT": "1"}
    env |= wanted
    settings = f"--config file:{shlex.quote(str(GUNICORN_SETTINGS))}"
    env["GUNICORN_CMD_ARGS"] = f"{settings} {wanted.get('GUNICORN_CMD_ARGS', '')}".strip()
    argv = (str(environment / "bin" / "azmlinfsrv"), "--entry_script", str(code / script), "--port", "{port}")
    return Launch(argv, env, cwd, listening_socket=True, probes=probes(document))


def probes(document: Mapping[str, Any]) -> Probes:
    """Routes and probes of `document`. Ports of `inference_config` are the image's own; here there is only one."""
    config = section(document, "environment").get("inference_config") or {}
    paths = {side: (config.get(f"{side}_route") or {}).get("path", "/") for side in ("readiness", "liveness")}
    startup = document.get("startup_probe")
    return Probes(
        paths["readiness"],
        paths["liveness"],
        _probe(document.get("readiness_probe")),
        _probe(document.get("liveness_probe")),
        None if startup is None else _probe(startup),
        secure=section(document, "tidegate").get("scheme") == "https",
        http2=section(document, "tidegate").get("protocol") == "http2",
    )


def _probe(section: Mapping[str, Any] | None) -> Probe:
    known = {one.name for one in fields(Probe)}
    return Probe(**{name: value for name, value in (section or {}).items() if name in known})
