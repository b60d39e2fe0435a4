"""Why no cluster can run here, in words that say what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from loadtests.kubernetes.cluster import node_files, programs

# program → what brings it on Debian
_NODE_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
_CNI = ("ptp", "host-local", "portmap", "loopback")


def missing(*, nodes: int = 1) -> str | None:
    """Why a cluster with so many real nodes cannot run here; None when it can. Without nodes much less is needed."""
    if sys.platform != "linux":
        return "a cluster needs Linux"
    if shutil.which("openssl") is None:
        return "a cluster needs openssl for its certificates, and there is none on the path (Debian: openssl)"
    return programs.missing() or (_missing_for_nodes() if nodes else None)


def _missing_for_nodes() -> str | None:
    if os.geteuid() != 0:
        return "a real Kubernetes node needs root: it makes namespaces, mounts and control groups"
    for program, package in _NODE_PROGRAMS.items():
        if shutil.which(program) is None:
            return f"a real Kubernetes node needs {program}, and there is none on the path (Debian: {package})"
    for plugin in _CNI:
        if not (node_files.CNI_PROGRAMS / plugin).exists():
            return (
                f"a real Kubernetes node needs {node_files.CNI_PROGRAMS / plugin} (Debian: containernetworking-plugins)"
            )
    return _refused()


def _refused() -> str | None:
    """Try what a node does first, in namespaces that end with the try."""
    script = """set -e
mount --make-rshared /
mount -t tmpfs tmpfs /run
ip link add name try type bridge
ip link add tried type veth peer name other
iptables -t nat -L >/dev/null
echo 1 > /proc/sys/net/ipv4/ip_forward
"""
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private", "sh", "-c", script],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if tried.returncode == 0:
        return None
    said = tried.stderr.strip().splitlines()
    return f"a real Kubernetes node needs namespaces, bridges and iptables, and this machine refuses: {said[-1] if said else ''}"
