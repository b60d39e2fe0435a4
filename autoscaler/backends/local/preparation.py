"""Getting ready to start replicas of one template: the document is understood and its environment built, again and
again with back-off while it fails.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoscaler.backends.base import Condition
from autoscaler.backends.local.conda import SERVER_PACKAGE, NotAnEnvironment, Requirements, parse
from autoscaler.backends.local.environments import BuildFailed, EnvironmentStore
from autoscaler.backends.local.launch import Launch, Needs, Unlaunchable, needs, plan_launch
from router.contract.errors import TidegateError
from router.contract.events import Phase

RETRY_FIRST_SECONDS = 5.0
"""After a failed build; doubled up to `RETRY_MOST_SECONDS`. A changed template does not wait."""
RETRY_MOST_SECONDS = 300.0
_PROGRESS_STEP = 0.01


@dataclass(slots=True)
class Preparation:
    """One template on its way to being launchable."""

    template: str
    document: Mapping[str, Any]
    assets: Path
    store: EnvironmentStore
    on_change: Callable[[], None]
    launch: Launch | None = None
    condition: Condition | None = None
    """What to tell while it is not, or could not be made, launchable; None before and after."""
    warnings: tuple[str, ...] = ()
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    async def run(self) -> None:
        """Until `launch` is set."""
        failures = 0
        while self.launch is None:
            try:
                self.launch = await self._prepare()
                self.condition = None
            except Unlaunchable as error:
                self._failed(error.reason, error.message)
            except BuildFailed as error:
                self._failed("ImageBuildFailure", error.message, error.log_tail)
            except NotAnEnvironment as error:
                self._failed("ImageBuildFailure", f"environment.conda_file: {error}")
            except TidegateError as error:
                self._failed("BadArgument", error.message)
            except (OSError, ValueError, TypeError, AttributeError) as error:
                self._failed("InternalServerError", f"{type(error).__name__}: {error}")
            if self.launch is None:
                await asyncio.sleep(min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(failures, 30)))
                failures += 1
        self.on_change()

    async def _prepare(self) -> Launch:
        wanted = needs(self.document, self.assets)
        requirements = await asyncio.to_thread(read_requirements, wanted)
        environment, self.warnings = await self.store.ensure(requirements, self._progress)
        return plan_launch(self.document, self.assets, environment, os.environ)

    def _progress(self, fraction: float, message: str) -> None:
        before = self.condition
        started = before is None or before.phase is not Phase.BUILDING
        if started or fraction - before.progress >= _PROGRESS_STEP:  # type: ignore[union-attr] # started covers None
            self.condition = Condition(Phase.BUILDING, self.template, message=message, progress=fraction)
            self.on_change()

    def _failed(self, reason: str, message: str, log_tail: str = "") -> None:
        self.condition = Condition(Phase.FAILED, self.template, reason, message, log_tail)
        self.on_change()


def read_requirements(wanted: Needs) -> Requirements:
    """What an environment needs, from the files themselves. Raises `Unlaunchable` or `NotAnEnvironment`."""
    for name, path in wanted.paths.items():
        if not path.exists():
            raise Unlaunchable("ResourceNotFound", f"{name}: {path.name!r} is not among the uploaded files")
    requirements = Requirements()
    if wanted.conda_file is not None:
        requirements = parse(wanted.conda_file.read_text(encoding="utf-8"), wanted.conda_file.name)
    return requirements.with_package(SERVER_PACKAGE) if wanted.server else requirements
