"""A real Kubernetes for tests: one cluster for the whole run, a namespace for each test, and other clusters for the cruel.

Whoever asks for one is skipped, with the reason, where none can run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.cluster.missing import missing


@pytest.fixture(scope="session")
def cluster_here() -> None:
    """Skips what needs a control plane where none can run."""
    if (reason := missing(nodes=0)) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def node_here() -> None:
    """Skips what needs real pods where none can run."""
    if (reason := missing()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster(node_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster of the whole run, with one real node. Tests are told apart by `namespace`."""
    yield from running_cluster(Cluster(tmp_path_factory.mktemp("cluster"), nodes=1))


@pytest.fixture(scope="session")
def api_cluster(
    cluster_here: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster whose API server is all that matters: that of the whole run, or one without nodes where nobody else needs them."""
    wanted = any("cluster" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if wanted and missing() is None:
        yield request.getfixturevalue("cluster")
    else:
        yield from running_cluster(Cluster(tmp_path_factory.mktemp("cluster")))


def running_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """For a fixture of more than one test: the cluster for as long as it is needed."""
    # A loop of its own, which leaves that of the test alone; the cluster itself belongs to none.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(cluster.start())
    try:
        yield cluster
    finally:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(cluster.stop())


@pytest.fixture
async def namespace(api_cluster: Cluster) -> AsyncIterator[str]:
    """A namespace of the test's own; everything in it is deleted afterwards."""
    async with api_cluster.namespace() as name:
        yield name


@pytest.fixture
async def own_cluster(node_here: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster with one real node that the test may do anything to."""
    cluster = Cluster(tmp_path / "own", nodes=1)
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


@pytest.fixture(scope="session")
def rough_cluster(cluster_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For `rough_control_plane`."""
    yield from running_cluster(Cluster(tmp_path_factory.mktemp("rough")))


@pytest.fixture
async def rough_control_plane(rough_cluster: Cluster) -> AsyncIterator[Cluster]:
    """A control plane without nodes whose API server the test may kill, freeze and make forgetful, as others did before it."""
    yield rough_cluster
    server = rough_cluster.control.api_server
    if server.pid is None:
        await server.start()
    await server.thaw()
    await server.until_ready()


@pytest.fixture
async def own_control_plane(cluster_here: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A control plane without nodes that the test may do anything to."""
    cluster = Cluster(tmp_path / "own")
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop()


@pytest.fixture(scope="session")
def tidegate_image(cluster: Cluster) -> str:
    """Name of Tidegate's own image on the node of the whole run's cluster."""
    if (reason := image.missing()) is not None:
        pytest.skip(reason)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(image.image(cluster))
