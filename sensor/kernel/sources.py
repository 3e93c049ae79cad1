"""What probe families are compiled from on this host, and what of it was compiled before."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sensor import __version__
from sensor.kernel import compile as compiler
from sensor.kernel.btf import Btf
from sensor.kernel.compiled import Cache, Compiled, key
from sensor.kernel.headers import kernel_header
from sensor.kernel.hooks import Family
from sensor.resources import probes_dir

_SHIM = Path(__file__).parent / "shim"
_CACHE = Path("/var/cache/sensor")


def cache_home() -> Path:
    """Where compiled families are kept: what systemd set up for the unit, or its usual place."""
    return Path(os.environ.get("CACHE_DIRECTORY") or _CACHE)


@dataclass(frozen=True, slots=True)
class Sources:
    """The kernel's types and the probes' texts. ``missing`` names what the kernel lacks ("struct.field")."""

    work: Path
    header: str
    missing: tuple[str, ...]
    btf: Btf
    cache: Cache

    @classmethod
    def of_kernel(cls, work: Path, cache: Cache) -> Sources:
        """Read the kernel's types and write its header to *work*."""
        # BCC falls back to modprobe kheaders where this is unset: no module is ever loaded for us.
        os.environ["BCC_KERNEL_SOURCE"] = str(_SHIM)
        btf = Btf.from_kernel()
        text, missing = kernel_header(btf)
        work.joinpath("vmlinux_min.h").write_text(text)
        return cls(work, text, tuple(missing), btf, cache)

    def known(self, family: Family, cpus: int, decisions: Collection[str]) -> Compiled | None:
        """What was compiled before from the same sources."""
        return self.cache.get(family.name, self._key(family, cpus, decisions))

    def compile(self, family: Family, cpus: int, decisions: Collection[str]) -> Compiled:
        """Compile, or take what was compiled before."""
        name = self._key(family, cpus, decisions)
        found = self.cache.get(family.name, name)
        if found is None:
            found = compiler.build(family, probes_dir(), self.work, cpus, decisions)
            self.cache.put(family.name, name, found)
        return found

    def _key(self, family: Family, cpus: int, decisions: Collection[str]) -> str:
        bcc = importlib.util.find_spec("bcc")  # found, not imported: that would load LLVM
        made = os.stat(bcc.origin) if bcc and bcc.origin else None
        return key(__version__, self.header, compiler.source(family, probes_dir()),
                   (probes_dir() / "events.h").read_text(), " ".join(compiler.flags(family, cpus, decisions)),
                   f"{made.st_mtime_ns} {made.st_size}" if made else "")
