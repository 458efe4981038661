"""The node's network: one bridge for pods, two iptables chains, the kernel switches they need; and all of it undone.

Everything is recorded before it is changed, so that teardown leaves the host as it was.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.cluster.control_plane import SERVICE_RANGE
from tools.cluster.errors import ClusterError
from tools.cluster.steps import run

BRIDGE = "qednano0"
POD_RANGE = "10.205.0.0/24"
GATEWAY = "10.205.0.1"
_FORWARD, _MASQUERADE = "QEDNANO-FORWARD", "QEDNANO-MASQUERADE"
# Ours, and those that kubelet and kube-proxy change without asking.
_SWITCHES = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/ipv4/conf/all/route_localnet": None,
    "vm/overcommit_memory": None,
    "vm/panic_on_oom": None,
    "kernel/panic": None,
    "kernel/panic_on_oops": None,
    "kernel/keys/root_maxkeys": None,
    "kernel/keys/root_maxbytes": None,
}
# (table, the kernel's chain, our chain, our chain's rules)
_RULES = (
    ("filter", "FORWARD", _FORWARD, (["-i", BRIDGE, "-j", "ACCEPT"], ["-o", BRIDGE, "-j", "ACCEPT"])),
    ("nat", "POSTROUTING", _MASQUERADE, (["-s", POD_RANGE, "!", "-d", POD_RANGE, "-j", "MASQUERADE"],)),
)


def set_up(state: Path) -> None:
    """Makes bridge and chains; does nothing that is done. Raises ClusterError on a network already in use."""
    if not _exists():
        _refuse_conflicts()
        _record_switches(state)
        run(["ip", "link", "add", BRIDGE, "type", "bridge"], what=f"making the bridge {BRIDGE}")
        run(["ip", "link", "set", BRIDGE, "mtu", str(mtu())], what=f"setting the MTU of {BRIDGE}")
        run(["ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE], what=f"giving {BRIDGE} its address")
        run(["ip", "link", "set", BRIDGE, "up"], what=f"raising {BRIDGE}")
    for name, value in _SWITCHES.items():
        if value is not None:
            _switch(name).write_text(value)
    for table, parent, chain, rules in _RULES:
        if not has_chain(table, chain):
            run(["iptables", "-w", "-t", table, "-N", chain], what=f"making the chain {chain}")
            for rule in rules:
                run(["iptables", "-w", "-t", table, "-A", chain, *rule], what=f"filling the chain {chain}")
        if not _succeeds(["iptables", "-w", "-t", table, "-C", parent, "-j", chain]):
            run(["iptables", "-w", "-t", table, "-I", parent, "-j", chain], what=f"hooking the chain {chain}")


def tear_down(state: Path, kube_proxy: Path | None) -> None:
    """Removes what set_up made and what kube-proxy left, and puts the kernel's switches back."""
    if not _exists() and not (state / "switches.json").exists():
        return
    if kube_proxy is not None:
        # It exits with an error when a table it would clean does not exist, so its status says nothing.
        subprocess.run([kube_proxy, "--cleanup"], capture_output=True)
    for table, parent, chain, _ in _RULES:
        _succeeds(["iptables", "-w", "-t", table, "-D", parent, "-j", chain])
        _remove_chains(table, {chain})
    for table in ("filter", "nat", "mangle"):
        _remove_chains(table, set(re.findall(r"^-N (KUBE-\S+)", _listed(table), re.MULTILINE)))
    _succeeds(["ip", "link", "delete", BRIDGE])
    recorded = state / "switches.json"
    if recorded.exists():
        for name, value in json.loads(recorded.read_text()).items():
            with contextlib.suppress(OSError):
                _switch(name).write_text(value)
        recorded.unlink()


def has_chain(table: str, chain: str) -> bool:
    """Whether iptables has a chain of this name."""
    return _succeeds(["iptables", "-w", "-t", table, "-S", chain])


def mtu() -> int:
    """The MTU of the interface that leads outside, which pods must not exceed; 1500 without one."""
    routes = json.loads(run(["ip", "-j", "route", "show", "default"], what="reading the default route") or "[]")
    if not routes:
        return 1500
    links = json.loads(run(["ip", "-j", "link", "show", routes[0]["dev"]], what="reading the outer interface"))
    return int(links[0]["mtu"])


def write_cni(folder: Path, data: Path) -> None:
    """The CNI configuration containerd reads: our bridge, addresses from POD_RANGE, nothing in iptables."""
    folder.mkdir(parents=True, exist_ok=True)
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "mtu": mtu(),
        "ipam": {
            "type": "host-local",
            "dataDir": str(data),
            "ranges": [[{"subnet": POD_RANGE}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    (folder / "10-qednano.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": "qednano", "plugins": [bridge]}, indent=1)
    )


def overlapping(routes: list[dict[str, Any]], ranges: tuple[str, ...]) -> list[str]:
    """Destinations of `routes` (as `ip -j route` prints them) that overlap with one of `ranges`."""
    found = []
    for route in routes:
        with contextlib.suppress(ValueError):
            destination = ipaddress.ip_network(route["dst"], strict=False)
            if any(destination.overlaps(ipaddress.ip_network(wanted)) for wanted in ranges):
                found.append(f"{route['dst']} ({route.get('dev', 'no device')})")
    return found


def _refuse_conflicts() -> None:
    routes = json.loads(run(["ip", "-j", "route", "show", "table", "all"], what="reading the routes") or "[]")
    clashes = overlapping(routes, (POD_RANGE, SERVICE_RANGE))
    if clashes:
        raise ClusterError(
            f"the native cluster uses {POD_RANGE} and {SERVICE_RANGE}, and this host already routes "
            f"{', '.join(clashes)}: use --kubeconfig or kind here"
        )
    if has_chain("nat", "KUBE-SERVICES"):
        raise ClusterError(
            "another Kubernetes node's kube-proxy rules are on this host: use --kubeconfig for that "
            "cluster, or remove them with kube-proxy --cleanup"
        )


def _record_switches(state: Path) -> None:
    _succeeds(["modprobe", "br_netfilter"])  # built into some kernels
    if not _switch("net/bridge/bridge-nf-call-iptables").exists():
        raise ClusterError(
            "the kernel has no br_netfilter, without which services do not reach pods on one bridge: "
            "run modprobe br_netfilter, or use kind"
        )
    state.mkdir(parents=True, exist_ok=True)
    before = {name: _switch(name).read_text().strip() for name in _SWITCHES if _switch(name).exists()}
    if not (state / "switches.json").exists():
        (state / "switches.json").write_text(json.dumps(before))


def _switch(name: str) -> Path:
    return Path("/proc/sys") / name


def _exists() -> bool:
    return Path(f"/sys/class/net/{BRIDGE}").exists()


def _succeeds(argv: list[str]) -> bool:
    return shutil.which(argv[0]) is not None and subprocess.run(argv, capture_output=True).returncode == 0


def _listed(table: str) -> str:
    return subprocess.run(["iptables", "-w", "-t", table, "-S"], capture_output=True, text=True).stdout


def _remove_chains(table: str, chains: set[str]) -> None:
    """Deletes every rule that jumps to one of `chains`, then the chains."""
    for line in _listed(table).splitlines():
        words = shlex.split(line)
        if words[:1] == ["-A"] and words[-1] in chains and words[1] not in chains:
            _succeeds(["iptables", "-w", "-t", table, "-D", *words[1:]])
    for action in ("-F", "-X"):
        for chain in chains:
            _succeeds(["iptables", "-w", "-t", table, action, chain])
