"""When a user's own image runs as it is, and what it finds in its environment. Pure.

As in Azure: an image with routes of its own, with a command, or ready-made for inference. An image that is only the
base of a conda environment is not run: the environment is built in Tidegate's own image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from autoscaler.backends.kubernetes.layout import APP, ASSETS, MODELS
from autoscaler.backends.local.launch import Unlaunchable, code_folder, command_of, script_of, section


def own_image(document: Mapping[str, Any]) -> str | None:
    """The user's image to run; None when Tidegate's own is to. Raises `Unlaunchable`."""
    environment = section(document, "environment")
    image = environment.get("image")
    if environment.get("build") and not image:
        message = (
            "environment.build: nothing here builds images; build and push it yourself, "
            "and name it under environment.image"
        )
        raise Unlaunchable("ImageBuildFailure", message)
    if not image:
        return None
    as_it_is = environment.get("inference_config") or command_of(document) or script_of(document) is None
    return str(image) if as_it_is or not environment.get("conda_file") else None


def base_is_left_out(document: Mapping[str, Any]) -> str:
    """What to tell a user whose image is only the base of a conda environment; empty when there is nothing to tell."""
    image = section(document, "environment").get("image")
    if not image or own_image(document) is not None:
        return ""
    return f"the conda environment is built in Tidegate's own image, not on {image}"


def model_place(document: Mapping[str, Any]) -> PurePosixPath | None:
    """`<name>/<version>` under which the model stands, as in Azure; None without a model."""
    model = section(document, "model")
    if model.get("path") is None:
        return None
    return PurePosixPath(str(model.get("name") or "model")) / str(model.get("version") or "1")


def variables(document: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables of a user's image: Azure's, then the document's own."""
    found: dict[str, str] = {}
    place = model_place(document)
    if place is not None:
        mounted = PurePosixPath(str(document.get("model_mount_path") or APP))
        found["AZUREML_MODEL_DIR"] = str(mounted / MODELS.name / place)
    code, script = code_folder(document, ASSETS), script_of(document)
    if code is not None:
        found["AML_APP_ROOT"] = str(code)
    if code is not None and script is not None:
        found["AZUREML_ENTRY_SCRIPT"] = script
    wanted = document.get("environment_variables") or {}
    return found | {str(name): str(value) for name, value in wanted.items()}
