"""All of Tidegate with its log on a real Kafka, and the broker taken away: nobody who calls a model may notice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtests.broker import Broker
from router.contract.events import REQUESTS
from router.runtime.log.opening import open_log
from tests.support.log_audit import Audit
from tests.support.log_reading import read_all
from tests.support.log_writing import Place, shipping
from tests.support.whole import Whole, until, whole

FROM_ZERO = {
    "tidegate": {"min_instances": 0, "max_instances": 1, "idle_seconds": 1},
    "scale_settings": {"type": "target_utilization", "min_instances": 1, "max_instances": 1, "polling_interval": 1},
}


async def arrivals(running: Whole, endpoint: str) -> float:
    """Requests that the control plane knows of."""
    async with running.session.get(f"{running.tree.control_url}/metrics") as response:
        text = await response.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return sum(one.value for one in families["tidegate_requests"].samples if one.labels["endpoint"] == endpoint)


async def test_without_a_broker_requests_scaling_and_restarts_go_on_and_nothing_is_lost(
    own_broker: Broker, tmp_path: Path
) -> None:
    url = f"kafka://{own_broker.servers}/whole?partitions=3"
    async with whole(tmp_path, "--log", url, workers=1) as running:
        await running.create("live", {"blue": {}, "asleep": FROM_ZERO}, {"blue": 100})

        async def nothing_runs() -> bool:
            return (await running.counts("live", "asleep"))["observed"] == 0

        await until("the idle deployment to go to zero", nothing_runs)
        async with running.load("live") as load:
            await running.more(load, 100)
            await own_broker.kill()
            await running.more(load, 300)
            # From zero: demand, decision and the new replica's address get through without the log.
            headers: dict[str, str] = {"azureml-model-deployment": "asleep"}
            status, deployment, text = await running.ask("live", None, **headers)
            assert (status, deployment) == (200, "asleep"), text
            seen = load.answered

            async def counted() -> bool:
                return await arrivals(running, "live") >= seen

            await until("the control plane to count what comes past the log", counted)
        assert load.failures == []
        sent = load.sent + 1

        # Whoever dies now comes back with what this machine knows. A gateway's records of the last moments die with it.
        killed_at = time.monotonic()
        at_risk = 1 + sum(killed_at - started < 1 for started in load.started)
        for role in ("gateway", "autoscaler", "control"):
            (before,) = running.pids(role)
            os.kill(before, signal.SIGKILL)

            async def back(role: str = role, before: int = before) -> bool:
                return bool(running.pids(role)) and before not in running.pids(role)

            await until(f"the {role} to be back", back)
        after = await running.send("live", 100)
        assert (after.failures, after.answered) == ([], 100)
        assert psutil.pid_exists(running.up.pid)

        await own_broker.start()
        again = await running.send("live", 50)
        assert again.failures == []
        sent += after.sent + again.sent

    # The tree has ended; what its shipper had no time for waits in the spool for the next one.
    place = Place(url, tmp_path / "data" / "spool")
    async with shipping(place):
        log = open_log(url, spool=place.spool)
        try:
            reader = await log.reader([REQUESTS])
            messages = await read_all(reader)
            assert reader.stats.gaps == 0
        finally:
            await log.close()
    audit = Audit(messages)
    records = sum(account.by_key["live"] for account in audit.accounts.values())
    assert sent - at_risk <= records <= sent
