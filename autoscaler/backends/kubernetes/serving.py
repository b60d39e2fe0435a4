"""The server container of a code deployment: becomes the server that the init container has prepared.

python -m autoscaler.backends.kubernetes.serving
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from autoscaler.backends.kubernetes import layout
from autoscaler.backends.local.launch import plan_launch


def command(told: Mapping[str, object], inherited: Mapping[str, str]) -> tuple[list[str], dict[str, str], str]:
    """(arguments, environment variables, folder) for what `launch.json` says, in a container with `inherited`."""
    document, environment = told["document"], Path(str(told["environment"]))
    assert isinstance(document, dict)
    if not os.access(environment / "bin" / "python", os.X_OK):
        raise SystemExit(f"the prepared environment {environment} is not there")
    launch = plan_launch(document, layout.ASSETS, environment, inherited)
    filled = {"{port}": inherited[layout.PORT], "{host}": "0.0.0.0"}
    argv = list(launch.argv)
    for name, value in filled.items():
        argv = [word.replace(name, value) for word in argv]
    env = {**inherited, **launch.env}
    if launch.listening_socket:  # Azure's server: requests that run may end before it does
        env["GUNICORN_CMD_ARGS"] += f" --graceful-timeout {inherited[layout.GRACE]}"
    return argv, env, launch.cwd or str(layout.SCRATCH)


def main() -> None:
    """Never returns."""
    argv, env, folder = command(json.loads(layout.LAUNCH.read_text()), dict(os.environ))
    os.chdir(folder)
    os.execvpe(argv[0], argv, env)  # noqa: S606 -- this process becomes the server


if __name__ == "__main__":
    main()
