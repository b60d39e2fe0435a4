"""The bench of the log, as far as it goes without a broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.log.__main__ import main
from loadtests.log.bursts import Kind, Story
from loadtests.log.losing import _window
from loadtests.log.recording import DISTINCT, ENDPOINTS, MESSAGE, recorded, records
from loadtests.log.scene import endpoint
from router.contract.azure import deployment_from_document
from router.contract.codec import decode_requests
from router.contract.specs import Kind as KindOfDocument
from router.gateway.records import Ledger
from router.gateway.state import Counters


class _Kept:
    """A log that keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, topic: str, key: str, value: bytes) -> int:
        self.values.append(value)
        return len(self.values)


def test_rows_without_a_broker_are_measured_and_written_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    assert main(["--row", "loss", "--row", "sync", "--quick", "--json", str(file)]) == 0
    loss, sync = json.loads(file.read_text())
    assert loss.keys() == {"work", "unit", "ours", "peers", "ratio", "goal", "met"}
    assert loss["ours"] >= loss["peers"]["p50"] >= 0
    assert sync["ours"] >= sync["peers"]["p50"] > 0
    assert "kill -9" in capsys.readouterr().out


def test_every_record_of_the_loop_is_in_a_message() -> None:
    log = _Kept()
    recorded([Ledger(log, f"e-{number}", Counters()) for number in range(ENDPOINTS)], records(), 0.0)  # type: ignore[arg-type]
    assert len(log.values) == DISTINCT / MESSAGE
    assert sum(len(decode_requests(value)) for value in log.values) == DISTINCT


def test_a_window_ends_with_the_first_sync_that_began_after_the_commit() -> None:
    assert _window(5_000_000, [(4_000_000, 6_000_000), (7_000_000, 9_000_000)]) == 4.0


def test_percentiles_are_of_the_named_endpoints_only() -> None:
    story = Story(left={"a": 0, "b": 0, "c": 0}, decided={"a": 2_000_000, "b": 4_000_000, "c": 10**9}, read={})
    assert story.milliseconds(["a", "b"], story.decided)[0] == 3.0


@pytest.mark.parametrize("replicas", [0, 1])
def test_endpoints_of_bursts_are_valid_documents(replicas: int) -> None:
    (one,) = Kind("some", replicas, 0.05, 1).endpoints()
    document = dict(one.deployments["blue"])
    spec = deployment_from_document(document, endpoint_name="some-0", kind=KindOfDocument.MANAGED)
    assert spec.instance_bounds() == (replicas, 8)
    assert endpoint("some-0", "memory", {"min_instances": 0, "max_instances": 1}, 3).endpoint == "some-0"
