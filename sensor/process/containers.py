"""Which container and which systemd unit a cgroup path speaks of.

There is no interface for this: container engines name their cgroups by habit. The shapes::

    docker, cgroupfs driver      /docker/<64 hex>
    docker, systemd driver       /system.slice/docker-<64 hex>.scope
    containerd, cri, systemd     /kubepods.slice/.../cri-containerd-<64 hex>.scope
    containerd, cgroupfs         /kubepods/burstable/pod<uid>/<64 hex>
    containerd, k8s in systemd   /system.slice/containerd.service/kubepods-...slice:cri-containerd:<64 hex>
    cri-o                        .../crio-<64 hex>.scope, with crio-conmon-<64 hex>.scope for its monitor
    podman, root                 /machine.slice/libpod-<64 hex>.scope/container
    podman, rootless             /user.slice/.../user@1000.service/user.slice/libpod-<64 hex>.scope
    podman, cgroupfs             /libpod_parent/libpod-<64 hex>
    lxc, incus, lxd              /lxc.payload.<name>, /lxc/<name>, /lxc.payload/<name>

A process can only be in a cgroup that somebody with the right to made, so these names are as
trustworthy as whoever may delegate cgroups; a rootless user can make up names below its own slice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

# Distinct cgroups alive at once: hundreds on a large node. A path is at most 1 KiB.
CAPACITY = 8192

_HEX = r"[0-9a-f]{64}|[0-9a-f]{12}"
_ID = re.compile(rf"(?:{_HEX})\Z")
_PREFIXED = re.compile(
    rf"(?P<tool>docker|cri-containerd|containerd|nerdctl|crio|cri-o|libpod)[-:](?P<id>{_HEX})\Z")
_CRI = re.compile(rf".*:(?P<tool>cri-containerd|crio|docker|containerd):(?P<id>{_HEX})\Z", re.DOTALL)
_LXC = re.compile(r"lxc\.payload\.(?P<name>.+)\Z", re.DOTALL)
_UNIT = re.compile(r".+\.(?:service|socket|mount|swap)\Z", re.DOTALL)

_RUNTIMES = {
    "docker": "docker", "cri-containerd": "containerd", "containerd": "containerd", "nerdctl": "containerd",
    "crio": "cri-o", "cri-o": "cri-o", "libpod": "podman",
}
# Parents of a bare id, by their first letters. An id below kubepods is containerd's or, long ago,
# dockershim's: the path can't tell, so no runtime is named there.
_PARENTS = (
    ("docker", "docker"), ("libpod", "podman"), ("buildkit", "docker"), ("kubepods", ""), ("pod", ""),
    ("containerd", "containerd"), ("default", "containerd"), ("moby", "docker"), ("k8s.io", "containerd"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """What one cgroup path says; ``fragment`` is its part of a document. Shared: don't change it."""

    path: str = ""
    container_id: str = ""
    runtime: str = ""
    service: str = ""
    fragment: dict[str, Any] = field(default_factory=dict)


def classify(path: str) -> Place:
    """Read a cgroup v2 path (or the name=systemd path of v1). What it does not say is empty.

    The innermost container counts: with containers in containers, it is the one the process sees.
    """
    identifier = runtime = service = ""
    parts = [part for part in path.split("/") if part]
    for index, part in enumerate(parts):
        stem = part.removesuffix(".scope")
        found = _container(stem, parts[index - 1] if index else "")
        if found is not None:
            identifier, runtime = found
        elif _UNIT.match(part):
            # Units inside a container (its own systemd) or below user@1000.service are the nearer truth.
            service = part
    fragment: dict[str, Any] = {}
    if identifier:
        fragment["container"] = {"id": identifier, **({"runtime": runtime} if runtime else {})}
    if service:
        fragment["service"] = {"name": service}
    return Place(path, identifier, runtime, service, fragment)


def _container(stem: str, parent: str) -> tuple[str, str] | None:
    """(id, runtime) where this path component names a container."""
    hit = _PREFIXED.match(stem) or _CRI.match(stem)
    if hit is not None:
        return hit["id"], _RUNTIMES[hit["tool"]]
    if _ID.match(stem):
        for beginning, runtime in _PARENTS:
            if parent.startswith(beginning):
                return stem, runtime
        # Twelve digits alone can be anything; 64 are a container's id wherever they stand.
        return (stem, "") if len(stem) == 64 else None
    hit = _LXC.match(stem)
    if hit is not None:
        return hit["name"], "lxc"
    if parent in ("lxc", "lxc.payload"):
        return stem, "lxc"
    return None


class Places:
    """Remembers what cgroup paths say, and which cgroup has which path.

    There are few paths, and they are asked for with every process. Only exec records and /proc tell
    a path; every record tells an id.
    """

    __slots__ = ("_known", "_paths")

    def __init__(self) -> None:
        self._known: dict[str, Place] = {"": Place()}
        self._paths: dict[int, str] = {}

    def learn(self, identifier: int, path: str) -> None:
        """The cgroup with this id (0: unknown) has this path (empty: unknown)."""
        if identifier and path:
            if len(self._paths) >= CAPACITY:
                self._paths.clear()
            self._paths[identifier] = path

    @property
    def full(self) -> bool:
        """Whether the next path to be learned makes all others forgotten."""
        return len(self._paths) >= CAPACITY

    def path(self, identifier: int, otherwise: str) -> str:
        """The path of a cgroup by its id, or *otherwise*."""
        return self._paths.get(identifier, otherwise)

    def of(self, path: str) -> Place:
        """The place of *path*; an empty path is an unknown one and says nothing."""
        place = self._known.get(path)
        if place is None:
            if len(self._known) >= CAPACITY:
                self._known = {"": Place()}
            place = self._known[path] = classify(path)
        return place
