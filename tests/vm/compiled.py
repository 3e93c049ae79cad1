"""What guests compiled, kept for the next run: under emulation, compiling takes longer than all the rest.

The sensor names each compiled family by everything that it was compiled from, so one that does not fit is never used.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import time
from pathlib import Path

from tests.vm.host import cache, locked
from tests.vm.images import CHECKOUT, suite_of

DISK = "compiled.img"
#: Room on the guest's third disk; all families of all alternatives are about 2 MB.
DISK_BYTES = 32 << 20
#: Code that decides what a compilation makes, besides what the sensor's own name for it says.
_COMPILERS = ("compile.py", "compiled.py", "btf.py", "headers.py", "sources.py")
_LOCK = "compiled-lock"
_KEEP_SECONDS = 14 * 86400
_FILE_MAX = 4 << 20


def home(label: str, suite: str) -> Path:
    """Where compiled families for this kernel and root image are kept."""
    code = hashlib.sha256(b"".join((CHECKOUT / "sensor" / "kernel" / name).read_bytes() for name in _COMPILERS))
    path = cache() / f"compiled-{label}-{suite_of(suite)}-{code.hexdigest()[:12]}"
    path.mkdir(exist_ok=True)
    return path


def lay_out(label: str, suite: str, target: Path) -> None:
    """Copy to *target* what a guest of this kernel and root gets."""
    with locked(_LOCK):
        shutil.copytree(home(label, suite), target)
    target.chmod(0o700)
    for file in target.iterdir():
        file.chmod(0o600)  # the sensor takes nothing that others may write


def disk(path: Path) -> Path:
    """An empty disk for the guest to write its archive to."""
    with open(path, "wb") as file:
        file.truncate(DISK_BYTES)
    return path


def collect(label: str, suite: str, written: Path) -> int:
    """Keep what a guest left on *written*; the number of files. A guest that crashed has left nothing."""
    count = 0
    with locked(_LOCK):
        kept = home(label, suite)
        try:
            with tarfile.open(written, "r:") as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isreg() and member.size <= _FILE_MAX else None
                    if file is not None:
                        (kept / Path(member.name).name).write_bytes(file.read())
                        count += 1
        except tarfile.TarError:
            return count
        for old in kept.iterdir():
            if time.time() - old.stat().st_mtime > _KEEP_SECONDS:
                old.unlink()
    return count
