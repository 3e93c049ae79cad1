"""What must be so before anything is compiled: the kernel, its types, and the right to read and load.

The loader asks before it compiles, commands that have nothing to do without events ask before they start
anything, and the doctor asks when it reports: one answer for all three. Standard library only.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path

from sensor.errors import HostError

ROOT = Path("/")
MINIMUM = (5, 8)
# Bits of a capability set, include/uapi/linux/capability.h.
SYS_ADMIN, PERFMON, BPF = 21, 38, 39
_BTF_MAGIC = b"\x9f\xeb"
_EVERYBODY = ["0", "0", str((1 << 32) - 1)]  # uid_map of the initial user namespace, user_namespaces(7)

#: Values of the metric's label, in the order in which they are looked for; "load" is everything else
#: that keeps probes from being loaded; then whoever decided against them, and why they were detached again.
LACKS = ("kernel", "btf", "lockdown", "user_namespace", "capabilities", "load", "operator", "guard",
         "health", "canary", "ring")


class Lack(HostError):
    """The host can't carry the probes. ``lack`` is one of LACKS."""

    def __init__(self, lack: str, reason: str, fix: str) -> None:
        self.lack = lack
        super().__init__(reason, fix)


def kernel(release: str) -> Lack | None:
    """The BPF ring buffer came with 5.8. *release*: as `uname -r` has it."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) < MINIMUM:
        return Lack("kernel", f"kernel {release} has no BPF ring buffer", "boot kernel 5.8 or later")
    return None


def type_information(root: Path = ROOT) -> Lack | None:
    """Probes are compiled against the running kernel's own types; nothing is guessed."""
    path = root / "sys/kernel/btf/vmlinux"
    try:
        with path.open("rb") as file:
            fault = "" if file.read(2) == _BTF_MAGIC else "not in BTF format"
    except OSError as error:
        fault = error.strerror or str(error)
    if not fault:
        return None
    return Lack("btf", f"no kernel type information at /sys/kernel/btf/vmlinux: {fault}",
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (distribution kernels since 2021 are)")


def lockdown_mode(root: Path = ROOT) -> str:
    """none, integrity or confidentiality; none where the kernel has no lockdown."""
    try:
        match = re.search(r"\[(\w+)\]", (root / "sys/kernel/security/lockdown").read_text("ascii", "replace"))
    except OSError:
        return "none"
    return match[1] if match else "none"


def lockdown(root: Path = ROOT) -> Lack | None:
    """Under confidentiality the kernel refuses the helper that reads its memory, LOCKDOWN_BPF_READ_KERNEL."""
    if lockdown_mode(root) != "confidentiality":
        return None
    return Lack("lockdown", "kernel lockdown is confidentiality: it forbids probes to read the kernel",
                "boot with lockdown=integrity")


def user_namespace(root: Path = ROOT) -> Lack | None:
    """Capabilities count in the namespace that grants them; those of the kernel are the initial one's."""
    try:
        words = (root / "proc/self/uid_map").read_text("ascii", "replace").split()
    except OSError:
        return None
    if words == _EVERYBODY:
        return None
    return Lack("user_namespace", "this is root of a user namespace, not of the host",
                "run it outside; containers: without a user namespace (docker run --userns=host)")


def capabilities(root: Path = ROOT) -> Lack | None:
    """The two that loading takes; CAP_SYS_ADMIN is older and includes both. Source: man 7 capabilities."""
    try:
        match = re.search(r"^CapEff:\s*(\w+)", (root / "proc/self/status").read_text("ascii", "replace"), re.MULTILINE)
        held = int(match[1], 16) if match else 0
    except (OSError, ValueError):
        return None
    lacking = [name for name, bit in (("CAP_BPF", BPF), ("CAP_PERFMON", PERFMON)) if not held >> bit & 1]
    if not lacking or held >> SYS_ADMIN & 1:
        return None
    return Lack("capabilities", f"without {' and '.join(lacking)} no probe can be loaded",
                "run it as root of the host; units: CapabilityBoundingSet=; containers: --privileged")


def lacks(root: Path = ROOT, release: str = "") -> Iterator[Lack]:
    """Everything that keeps probes from being loaded here, most fundamental first."""
    for found in (kernel(release or platform.release()), type_information(root), lockdown(root),
                  user_namespace(root), capabilities(root)):
        if found is not None:
            yield found


def check() -> None:
    """Raise the first lack."""
    for found in lacks():
        raise found
