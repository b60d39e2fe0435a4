"""The cluster's network: one block 10.x.0.0/16, a bridge that this machine has a leg in, a namespace per node.

From this machine every pod and every service address can be reached, as from inside the cluster: routes lead to the
nodes, and their kube-proxy does the rest. No firewall rule and no setting of this machine is touched: those of a node are
its namespace's and end with it. Whatever nobody has is unreachable at once and leaves this machine by no other way.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

MOST_NODES = 6


@dataclass(frozen=True, slots=True)
class Subnets:
    """10.`number`.0.0/16 in parts. Nodes count from 1."""

    number: int

    @property
    def block(self) -> IPv4Network:
        """All of it."""
        return IPv4Network(f"10.{self.number}.0.0/16")

    @property
    def link(self) -> IPv4Network:
        """What this machine and the nodes have in common."""
        return IPv4Network(f"10.{self.number}.0.0/20")

    @property
    def machine(self) -> IPv4Address:
        """This machine, as nodes and pods know it; the API server listens here."""
        return self.link[1]

    def node(self, node: int) -> IPv4Address:
        """A node's own address."""
        return self.link[1 + node]

    def pods(self, node: int) -> IPv4Network:
        """Addresses of a node's pods."""
        return IPv4Network(f"10.{self.number}.{16 * node}.0/20")

    @property
    def load_balancers(self) -> IPv4Network:
        """Addresses for services of type LoadBalancer, led to node 1."""
        return IPv4Network(f"10.{self.number}.112.0/20")

    @property
    def services(self) -> IPv4Network:
        """Cluster addresses, led to node 1."""
        return IPv4Network(f"10.{self.number}.128.0/17")

    @property
    def bridge(self) -> str:
        """Name of the bridge."""
        return f"tidegate{self.number}"

    def wire(self, node: int) -> str:
        """Name of this machine's end of the wire to a node."""
        return f"tg{self.number}n{node}"


def routes() -> list[IPv4Network]:
    """Where this machine has routes to."""
    listed = json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    return [IPv4Network("0.0.0.0/0" if one["dst"] == "default" else one["dst"]) for one in listed]


def create(subnets: Subnets) -> None:
    """Make the bridge. What is there of the same name goes first."""
    remove(subnets.number)
    _ip("link", "add", subnets.bridge, "type", "bridge")
    _ip("addr", "add", f"{subnets.machine}/{subnets.link.prefixlen}", "dev", subnets.bridge)
    _ip("link", "set", subnets.bridge, "up")
    _ip("route", "add", "unreachable", str(subnets.block), "metric", "4096")


def remove(number: int) -> None:
    """Remove the bridge, the wires on it and all routes into the block."""
    subnets = Subnets(number)
    if shutil.which("ip") is None:
        return
    for name in sorted(_links() & {subnets.bridge, *(subnets.wire(node) for node in range(1, MOST_NODES + 1))}):
        _ip("link", "del", name)
    for route in json.loads(_ip("-json", "-4", "route", "show", "type", "unreachable")):
        if route["dst"] == str(subnets.block):
            _ip("route", "del", "unreachable", route["dst"], "metric", str(route["metric"]))


def connect(subnets: Subnets, node: int, nodes: int, namespace: int) -> None:
    """Lay the wire to a node whose network namespace is that of process `namespace`, and the routes on both sides."""
    wire = subnets.wire(node)
    if wire in _links():  # of one that was killed: the kernel takes a moment
        _ip("link", "del", wire)
    _ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", str(namespace))
    _ip("link", "set", wire, "master", subnets.bridge, "up")
    inside = ["nsenter", "--target", str(namespace), "--net", "--"]
    _ip("addr", "add", f"{subnets.node(node)}/{subnets.link.prefixlen}", "dev", "eth0", inside=inside)
    _ip("link", "set", "eth0", "up", inside=inside)
    _ip("link", "set", "lo", "up", inside=inside)
    _ip("route", "add", "default", "via", str(subnets.machine), inside=inside)
    # A pod that is gone answers with silence, as on a real network.
    _ip("route", "add", "blackhole", str(subnets.pods(node)), inside=inside)
    for other in range(1, nodes + 1):
        if other != node:
            _ip("route", "add", str(subnets.pods(other)), "via", str(subnets.node(other)), inside=inside)
    led_here = [subnets.pods(node)] + ([subnets.services, subnets.load_balancers] if node == 1 else [])
    for destination in led_here:
        _ip("route", "replace", str(destination), "via", str(subnets.node(node)))


def cut(subnets: Subnets, node: int) -> None:
    """Cut the wire to a node: what is sent either way is lost without a word."""
    _ip("link", "set", subnets.wire(node), "down")


def mend(subnets: Subnets, node: int) -> None:
    """Join the wire to a node again."""
    _ip("link", "set", subnets.wire(node), "up")


def _links() -> set[str]:
    return {link["ifname"] for link in json.loads(_ip("-json", "link", "show"))}


def _ip(*words: str, inside: Sequence[str] = ()) -> str:
    done = subprocess.run([*inside, "ip", *words], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout
