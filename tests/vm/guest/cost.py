"""What an operation costs in the sensor's programs, by the kernel's own run-time statistics.

The kernel counts a tail call's time for the program that it began in, so programs are summed up.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from sensor.kernel import bpf

_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
_TIMES = 300
_SPAWNS = 30


@contextlib.contextmanager
def _counting() -> Iterator[None]:
    before = _STATISTICS.read_text()
    _STATISTICS.write_text("1")
    try:
        yield
    finally:
        _STATISTICS.write_text(before)


def _spent(programs: list[int]) -> int:
    total = 0
    for number in programs:
        with contextlib.suppress(OSError):  # unloaded since it was listed
            fd = bpf.program_by_id(number)
            total += bpf.program_info(fd).run_ns
            os.close(fd)
    return total


def _operations(place: Path) -> dict[str, tuple[str, int, Callable[[int], object]]]:
    """Name -> (event that it makes, times, what to do the n-th time)."""
    (place / "read").touch()
    for n in range(_TIMES):
        (place / f"unlink-{n}").touch()
    (place / "rename-0").touch()

    def connect(_: int) -> None:
        with socket.socket() as plug:
            plug.connect_ex(("127.0.0.1", 1))

    return {
        "open and close for reading": ("", _TIMES, lambda _: os.close(os.open(place / "read", os.O_RDONLY))),
        "open and close for writing": ("file_open", _TIMES, lambda _: os.close(os.open(place / "read", os.O_WRONLY))),
        "unlink": ("file_unlink", _TIMES, lambda n: os.unlink(place / f"unlink-{n}")),
        "rename": ("file_rename", _TIMES, lambda n: os.rename(place / f"rename-{n}", place / f"rename-{n + 1}")),
        "chmod": ("file_chmod", _TIMES, lambda n: os.chmod(place / "read", 0o600 + n % 2)),
        "refused connect": ("network_connect", _TIMES, connect),
        "fork, exec and exit": ("process_exec", _SPAWNS, lambda _: os.waitpid(
            os.posix_spawn("/bin/true", ["true"], {}), 0)),
    }


def measure(programs: list[int], place: Path, kinds: dict[str, str]) -> dict[str, str]:
    """Time in *programs* for each operation, in multiples of a system call that nobody handles.

    Args:
        programs: Ids of the sensor's programs.
        place: An empty directory.
        kinds: Event -> the alternative that carries it; empty for all operations.
    """
    operations = _operations(place)
    with _counting():
        start = _spent(programs)
        for _ in range(_TIMES):
            os.getppid()
        unit = (_spent(programs) - start) / _TIMES
        found = {}
        for name, (event, times, act) in operations.items():
            if kinds and event not in kinds:
                continue
            start = _spent(programs)
            for n in range(times):
                act(n)
            each = (_spent(programs) - start) / times
            found[f"{name} [{kinds[event]}]" if kinds else name] = f"{each / unit:.0f}" if unit else "-"
    return found
