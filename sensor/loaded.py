"""What the loader's messages add up to, and the descriptors that keep it in the kernel. Standard library only."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

from sensor.kernel import bpf


@dataclass(slots=True)
class Load:
    """What one run of the loader brought. ``fds``, by family, keep everything attached."""

    fds: dict[str, list[int]] = field(default_factory=dict)
    seed: list[int] = field(default_factory=list)  # /proc as it was when the probes were attached
    maps: dict[str, int] = field(default_factory=dict)
    programs: list[dict[str, Any]] = field(default_factory=list)
    program_fds: dict[int, int] = field(default_factory=dict)  # program id -> descriptor
    program_names: dict[int, str] = field(default_factory=dict)  # program id -> what the kernel calls it
    tags: dict[str, str] = field(default_factory=dict)  # tag -> name, of every program
    failures: list[dict[str, Any]] = field(default_factory=list)
    absent: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    shed: frozenset[str] = frozenset()  # families that are attached and switched off
    shed_bits: int = 0  # what says so in the map of settings
    fatal: dict[str, str] | None = None
    done: bool = False

    def take(self, message: dict[str, Any], fds: list[int]) -> None:
        """Add one message of the loader."""
        kind = message["kind"]
        if kind == "maps":
            self.maps = dict(zip(message["names"], fds, strict=True))
        elif kind == "family":
            self.keep(fds, message["name"])
            self.programs += message["programs"]
            self.failures += message["failures"]
            self.absent += message["absent"]
            self._find_programs(fds)
        elif kind == "seed":
            self.seed = fds
        elif kind == "failed":
            self.failures.append({"event": "", "program": message["name"], "target": "family",
                                  "reason": message["reason"], "log": message.get("log", "")})
        elif kind == "fatal":
            self.fatal = {"lack": message.get("lack", "load"), "reason": message["reason"], "fix": message["fix"]}
        elif kind == "done":
            self.missing, self.done = message["missing"], True

    def _find_programs(self, fds: list[int]) -> None:
        for fd in fds:
            # Links and perf events are among them; asking those for program facts gives other facts.
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:bpf-prog":
                info = bpf.program_info(fd)
                self.program_fds[info.id], self.tags[info.tag] = fd, info.name
                self.program_names[info.id] = info.name

    @property
    def families(self) -> set[str]:
        """Names of those of which something is attached."""
        return {program["family"] for program in self.programs}

    def keep(self, fds: list[int], family: str = "") -> None:
        """Close these with everything else."""
        self.fds.setdefault(family, []).extend(fds)

    def close(self) -> None:
        """Detach and unload everything."""
        for fd in (*(fd for fds in self.fds.values() for fd in fds), *self.seed, *self.maps.values()):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds, self.seed, self.maps, self.program_fds, self.programs = {}, [], {}, {}, []
        self.program_names = {}
