"""Builds the hot modules of the live path ahead of time into the wheel, where `TIDEGATE_COMPILE=1` asks for it.

The same files are compiled (mypyc) that run as Python otherwise; both are tested. What is compiled must not read
annotations while it runs, and classes among it have no bases that are not. Needs a C compiler and Python's headers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDERS = ("router/policy", "router/gateway", "router/runtime/http2", "mirror")
"""All of them, as one compilation unit: between its classes, calls and attributes need no look-up."""
ALSO = ("router/contract/tee.py", "router/contract/shadow_json.py")
"""Of the others, what is called for every shadow."""
INTERPRETED = (
    # Coroutines that live long: an exception that was thrown into a compiled one and handled further in stays the thread's
    # present one while it waits, and each further one holds on to it.
    "router/gateway/discovery.py",
    "router/gateway/mirror_link.py",
    "router/gateway/certificate_store.py",
    "router/gateway/certificates.py",
    "router/gateway/handover.py",
    "router/gateway/listening.py",
    "router/gateway/reports.py",
    "router/gateway/worker.py",
    "mirror/discovery.py",
    "mirror/receiver.py",
    "mirror/recorder.py",
    "mirror/service.py",
)
"""But for these: some by need, the others because they would gain nothing."""
_PACKAGES = ("router", "mirror", "autoscaler")
_PROGRAM = """
from setuptools import setup
from mypyc.build import mypycify
setup(name="tidegate", script_args=["-q", "build_ext", "--inplace"],
      ext_modules=mypycify(["--config-file", {config!r}, *{modules!r}], opt_level={level!r}, debug_level="0"))
"""


def asked_for() -> bool:
    """Whether the environment asks for it. Raises `ValueError` for a value that says neither."""
    value = os.environ.get("TIDEGATE_COMPILE", "0")
    if value not in ("0", "1", "quickly"):
        text = "1 compiles the live path, quickly does so for tests, 0 (the default) does not"
        raise ValueError(f"TIDEGATE_COMPILE is {value!r}: {text}")
    return value != "0"


def optimisation() -> str:
    """How far the C compiler goes: for tests not at all, which takes half as long. What they are about is what mypyc makes of Python."""
    return "0" if os.environ.get("TIDEGATE_COMPILE") == "quickly" else "2"


def modules(root: Path) -> list[str]:
    """What is compiled, as paths from the top folder."""
    found = (path.relative_to(root).as_posix() for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return sorted({*ALSO, *(path for path in found if not path.endswith("__init__.py") and path not in INTERPRETED)})


def compile_into(root: Path, folder: Path) -> list[Path]:
    """Compile a copy of the sources under `root` in `folder`; returns the paths of what came of it, from there.

    Raises `subprocess.CalledProcessError`; what the compilers said is on standard error.
    """
    for name in _PACKAGES:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    config = folder / "mypy.ini"
    config.write_text("[mypy]\nignore_missing_imports = True\n")
    program = _PROGRAM.format(config=str(config), modules=modules(root), level=optimisation())
    environment = {**os.environ, "CFLAGS": f"-w -O{optimisation()}", "MYPY_CACHE_DIR": str(folder / "cache")}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, stdout=sys.stderr)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    made = (path.relative_to(folder) for path in folder.rglob(f"*{suffix}"))
    return sorted(path for path in made if path.parts[0] != "build")


class CompiledWheel(BuildHookInterface[Any]):
    """Hatchling's hook: adds what is compiled to a wheel. An editable install stays Python."""

    PLUGIN_NAME = "custom"
    _folder: Path | None = None

    def dependencies(self) -> list[str]:
        """What the build needs for it; of the live path's libraries those whose types it must know."""
        return ["mypy>=2.0,<3", "setuptools>=80,<90", "hpack>=4.1,<5"] if asked_for() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is put together."""
        if version == "editable" or not asked_for():
            return
        self._folder = Path(tempfile.mkdtemp(prefix="tidegate-compiling-"))
        for path in compile_into(Path(self.root), self._folder):
            build_data["force_include"][str(self._folder / path)] = str(path)
        build_data["infer_tag"] = True
        build_data["pure_python"] = False

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 -- the hook's signature
        """After it."""
        if self._folder is not None:
            shutil.rmtree(self._folder)
