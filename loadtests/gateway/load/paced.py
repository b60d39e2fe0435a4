"""Open-loop load as a child process on the other core, read back as numbers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loadtests.gateway.load.running import said

Samples = npt.NDArray[np.float64]


class Behind(RuntimeError):
    """The answers did not keep up with the requests."""


@dataclass(frozen=True, slots=True)
class Paced:
    """One run of the generator."""

    latencies: Samples
    """µs from when a request was due to the end of its answer, shape (requests,)."""
    lateness: Samples
    """µs from when it was due to when it left."""
    cpu_share: float
    """Of one core, which the generator itself used while requests left."""

    def percentile(self, percent: float) -> float:
        """Of the latencies, µs."""
        return percentile(self.latencies, percent)


def percentile(samples: Samples, percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed."""
    return float(np.percentile(samples, percent, method="inverted_cdf"))


def paced(
    port: int,
    path: str,
    *,
    rate: float,
    seconds: float,
    connections: int = 64,
    body_bytes: int = 1024,
    cpu: int | None = None,
    warm_up_seconds: float = 0.2,
    first: bool = False,
) -> Paced:
    """POST `body_bytes` at a constant `rate`; what was due in the first `warm_up_seconds` is not counted. `first`: see `priority`.

    Raises RuntimeError when a request failed, and Behind when answers stayed away.
    """
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples"
        words = ["--port", str(port), "--path", path, "--rate", f"{rate:.3f}", "--samples", str(samples)]
        words += ["--seconds", f"{seconds + warm_up_seconds:.3f}", "--connections", str(connections)]
        words += ["--body-bytes", str(body_bytes), *(["--first"] if first else [])]
        told = said("open_loop", *words, cpu=cpu, deadline_seconds=seconds + 60)
        if told["missing"]:
            raise Behind(
                f"at {rate:,.0f}/s {told['missing']:,} of {told['count']:,} answers had not come 10 s after the end"
            )
        if told["failed"]:
            raise RuntimeError(f"port {port}: {told['failed']} of {told['count']} answers were no 200")
        latencies, late = np.fromfile(samples).reshape(2, told["count"]) * 1e6
    skipped = round(rate * warm_up_seconds)
    return Paced(latencies[skipped:], late[skipped:], told["cpu_seconds"] / (seconds + warm_up_seconds))
