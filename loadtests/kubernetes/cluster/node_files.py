"""What a node's programs are told, as files in its folder."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import yaml

PAUSE_IMAGE = "tidegate.local/pause:1"
DOMAIN = "cluster.local"
CNI_PROGRAMS = Path("/usr/lib/cni")
# What the kubelet would set for the whole machine; it leaves alone what has the value already.
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def write(folder: Path, name: str, address: str, pods: IPv4Network, cgroup: str) -> None:
    """Write all files of a node into its `folder`."""
    for part in ("lib", "log", "cni", "kernel"):
        (folder / part).mkdir()
    (folder / "mounts.sh").write_text(_mounts(folder))
    (folder / "containerd.toml").write_text(_containerd(folder))
    (folder / "cni" / "10-tidegate.conflist").write_text(json.dumps(_cni(pods)))
    (folder / "resolv.conf").write_text("")
    (folder / "Corefile").write_text(_corefile(folder, address))
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(folder, address, cgroup)))
    (folder / "kube-proxy.yaml").write_text(yaml.safe_dump(_proxy(folder, name, address, pods)))


def pause_archive(folder: Path, program: Path) -> Path:
    """An archive with the image of one program that holds a pod's namespaces open."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = program.stat().st_size, 0o755
        with program.open("rb") as file:
            tar.addfile(entry, file)
    digest = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [digest]}, "history": [{"created_by": "tidegate"}],
    }).encode()  # fmt: skip
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]).encode()
    path = folder / "pause.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("layer.tar", layer.getvalue()), ("config.json", config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def _mounts(folder: Path) -> str:
    """Shell script, run once in the node's namespaces."""
    lines = [
        "mount --make-rshared /",  # containers get what is mounted later; this machine does not
        "mount -t tmpfs -o mode=755 tmpfs /run",
        f"mount --bind {folder}/lib /var/lib",
        f"mount --bind {folder}/log /var/log",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ]
    for setting, value in _KERNEL_SETTINGS.items():
        file = folder / "kernel" / setting.replace("/", ".")
        file.write_text(value)
        lines.append(f"mount --bind {file} /proc/sys/{setting}")
    return "\n".join([*lines, ""])


def _containerd(folder: Path) -> str:
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE no process may get a lower score than its parent's.
  restrict_oom_score_adj = true
  max_container_log_line_size = -1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{folder}/cni"
"""


def _cni(pods: IPv4Network) -> dict[str, Any]:
    # A wire and a route per pod, and no bridge: every packet passes the node's firewall, which is where services are.
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": str(pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [{"type": "ptp", "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return {"cniVersion": "0.4.0", "name": "tidegate", "plugins": plugins}


def _kubelet(folder: Path, address: str, cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(folder.parent / "authority" / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},  # of those whom the authority vouches for
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [address],
        "clusterDomain": DOMAIN,
        "resolvConf": str(folder / "resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "cgroupsPerQOS": True,
        "cgroupRoot": cgroup,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxPods": 250,
        "serializeImagePulls": False,
        "volumePluginDir": str(folder / "lib" / "volume-plugins"),
        # What a full disk of this machine has to do with it: nothing.
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "10s",
        "nodeLeaseDurationSeconds": 8,
        "logging": {"verbosity": 1},
    }


def _corefile(folder: Path, address: str) -> str:
    # One per node, and none but the cluster's own names: whatever else is asked for is refused at once.
    return f""".:53 {{
    bind {address}
    ready {address}:8181
    errors
    loadbalance
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {folder.parent / "admin.kubeconfig"}
        ttl 5
    }}
}}
"""


def _proxy(folder: Path, name: str, address: str, pods: IPv4Network) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(folder / "kube-proxy.kubeconfig")},
        "hostnameOverride": name,
        "healthzBindAddress": f"{address}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # Who is not of this node's pods gets the node's address, so that answers come back the same way.
        "clusterCIDR": str(pods),
        "iptables": {"minSyncPeriod": "100ms"},
        # The table of connections is the machine's; its size is not a node's business.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
