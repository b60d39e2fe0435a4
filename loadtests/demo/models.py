"""Trains the demo's models in the very environment that will serve them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING

from autoscaler.backends.local.conda import parse
from autoscaler.backends.local.environments import EnvironmentStore
from router.runtime.settings import default_cache

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.demo.view import Screen


async def train(example: Path, screen: Screen) -> None:
    """Build the environment of `example/conda.yml` (cached) and run `train.py` with it; models land in ./models."""
    screen.title("train: three scikit-learn models, in the environment that will serve them")
    requirements = parse((example / "conda.yml").read_text(), "conda.yml").with_package("azureml-inference-server-http")
    store = EnvironmentStore(default_cache())
    with screen.console.status("  building the environment (downloads scikit-learn the first time)"):
        folder, _ = await store.ensure(requirements, lambda fraction, text: None)  # noqa: ARG005 -- a status line is enough
    process = await asyncio.create_subprocess_exec(
        folder / "bin" / "python", "train.py", cwd=example, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"train.py failed: {err.decode()}")
    for line in out.decode().splitlines():
        told = json.loads(line)
        screen.say(f"  {told['model']:10} accuracy {told['accuracy']:.1%}")
