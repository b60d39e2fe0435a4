"""Where things lie inside a pod, and the variables that tell its programs what to do. Pure; no other imports, because
the pod's own programs read it too.
"""

from __future__ import annotations

from pathlib import Path

APP = Path("/var/azureml-app")
"""The volume that the init container fills, where Azure's images expect it."""
ASSETS = APP / "assets"
MODELS = APP / "azureml-models"
LAUNCH = APP / "launch.json"
"""What the server container starts from."""
CACHE = Path("/var/cache/tidegate")
"""Where a volume for built environments is mounted, if there is one; else they are built in `APP`."""
SCRATCH = Path("/tmp")  # noqa: S108 -- the pod's own
"""Where a server may write although its root file system is read-only."""
PREBUILT = Path("/opt/inference")
"""A virtual environment with Azure's inference server in Tidegate's own image."""

SERVER = "inference-server"
INITIALIZER = "storage-initializer"
"""Containers, called as in Azure's `get-logs --container`."""

TASK = "TIDEGATE_TASK"
"""`files` or `environment`."""
CONTROL_URL = "TIDEGATE_CONTROL_URL"
DOCUMENT = "TIDEGATE_DOCUMENT"
SIGNATURES = "TIDEGATE_SIGNATURES"
"""Asset → what opens it at the control plane, as JSON."""
ENVIRONMENTS = "TIDEGATE_ENVIRONMENTS"
"""Folder for built environments. Said, not looked for: an image's own volume can be written to by one container only."""
PORT = "TIDEGATE_PORT"
GRACE = "TIDEGATE_GRACE_SECONDS"
"""How long requests may go on after SIGTERM."""

SERVER_PORT = 5001
"""Of Azure's inference server."""
