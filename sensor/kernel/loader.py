"""The loader: a short-lived root child that puts the probes into the kernel and leaves.

It gets a plan over a UNIX socket, makes the shared maps, and forks one child per family, for
LLVM may abort. Each child sends its descriptors straight to the supervisor, which holds them:
they live as long as it does. The loader ends by ``os._exit``, since BCC's exit handler would
detach everything; 125 MB of LLVM leave with it.

Messages to the supervisor are JSON in one packet each, descriptors beside them:
``maps`` {names}, ``turn`` {name}, ``family`` {name, programs, failures}, ``failed`` {name, reason}, ``fatal``
{lack, reason, fix}, ``seed`` {}, ``done`` {missing}.

Families are compiled two at a time and attached one after the other, in the order of the table. Where the plan says
so, each asks for its ``turn`` and goes on at the answer GO; anything else is the reason why it may not.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sensor import children
from sensor.crashes.verdict import LOADER_COMM
from sensor.errors import HostError, SensorError
from sensor.kernel import bpf, inodes, preflight
from sensor.kernel import compile as compiler
from sensor.kernel import plan as plans
from sensor.kernel.attach import Loaded, empty_slots, load_family
from sensor.kernel.compiled import Cache
from sensor.kernel.hooks import DECIDING, FAMILIES, Family, deciding, likely
from sensor.kernel.sources import Sources, cache_home

_PACKET = 1 << 18
_FAMILY_SECONDS = 160  # of one child; a compile takes one or two, but twenty on an emulated processor
_PARALLEL = 2
_LOG_TAIL = 4000
_ANSWER = 1024


def _send(channel: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one packet. At most 253 descriptors go with a packet (SCM_MAX_FD)."""
    socket.send_fds(channel, [json.dumps(message).encode()], fds or [])


def _tail(path: Path) -> str:
    text = path.read_text(errors="replace") if path.exists() else ""
    return text[-_LOG_TAIL:].strip()


def _wait(before: list[int]) -> None:
    """Return when the families that come first have ended: each holds the other end of one of these pipes."""
    for fd in before:
        os.read(fd, 1)


def _turn(channel: socket.socket, plan: plans.Plan, name: str) -> None:
    """Ask the supervisor whether to go on; raises HostError with its reason where not."""
    if not plan.turns:
        return
    _send(channel, {"kind": "turn", "name": name})
    answer = channel.recv(_ANSWER)
    if answer != plans.GO:
        raise HostError(answer.decode("utf-8", "replace") or "the supervisor is gone")


def _load(family: Family, plan: plans.Plan, shared: dict[str, int], sources: Sources,
          ready: Callable[[], None]) -> Loaded:
    """Compile, load and attach a family. What is rarely needed is compiled only when something failed without it."""
    few = likely(family.name, plan.only())
    compiled = sources.compile(family, plan.cpus, few)
    ready()
    loaded = load_family(family, compiled, shared, plan, sources.btf)
    if not loaded.failures or deciding(family.name, plan.only()) <= few:
        return loaded
    for fd in loaded.fds:
        os.close(fd)
    empty_slots(family, shared)
    return load_family(family, sources.compile(family, plan.cpus, DECIDING), shared, plan, sources.btf)


def _family_child(loader: int, family: Family, plan: plans.Plan, shared: dict[str, int], sources: Sources,
                  channel: socket.socket, before: list[int]) -> None:
    """Body of a family's process; never returns."""
    children.die_with(loader)
    signal.alarm(_FAMILY_SECONDS)
    log = sources.work / f"{family.name}.log"
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)

    def ready() -> None:
        signal.alarm(0)  # how long the others take is not this one's time
        _wait(before)
        _turn(channel, plan, family.name)
        signal.alarm(_FAMILY_SECONDS)

    status = 1
    try:
        loaded = _load(family, plan, shared, sources, ready)
        _send(channel, {"kind": "family", "name": family.name, "programs": loaded.programs,
                        "failures": loaded.failures, "absent": loaded.absent}, loaded.fds)
        status = 0
    except Exception as error:  # noqa: BLE001  the process ends here; the reason must reach the supervisor
        reason = error.reason if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
        _send(channel, {"kind": "failed", "name": family.name, "reason": reason, "log": _tail(log)})
        status = 0
    finally:
        os._exit(status)


def _reap(running: dict[int, Family], work: Path, channel: socket.socket) -> None:
    pid, status = os.wait()
    family = running.pop(pid, None)
    if family is None or status == 0:
        return
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
    _send(channel, {"kind": "failed", "name": family.name, "reason": f"the compiler ended by {how}",
                    "log": _tail(work / f"{family.name}.log")})


_NOT_FILES = ("/proc/", "/sys/", "/dev/")
_SCAN_LIMIT = 1000


def _watch(plan: plans.Plan, shared: dict[str, int]) -> None:
    """Fill the read filter: names as asked, inodes of the files that the patterns match now."""
    for name, kind in plan.names:
        key = name.encode("utf-8", "surrogateescape").ljust(32, b"\0")
        bpf.map_update(shared["watch_names"], key, struct.pack("<I", kind))
    paths = itertools.chain.from_iterable(glob.iglob(pattern) for pattern in plan.patterns
                                          if not pattern.startswith(_NOT_FILES))
    devices = inodes.mounted()
    for path in itertools.islice(paths, _SCAN_LIMIT):
        with contextlib.suppress(OSError):  # vanished since it was listed
            bpf.map_update(shared["watch_inodes"], struct.pack("<QQ", *inodes.identity(path, devices)),
                           struct.pack("<I", 1))


def _seed() -> int:
    """A memory file with the processes of /proc, read once the probes see every new one.

    Only root may read who they are, and the engine has given root up by now.
    """
    from sensor.process.seed import Reader

    fd = os.memfd_create("sensor-seed", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "w") as file:
        json.dump([asdict(found) for found in Reader().processes()], file)
    return fd


def _families(wanted: list[Family], plan: plans.Plan, shared: dict[str, int], sources: Sources,
              channel: socket.socket, running: dict[int, Family]) -> None:
    """Start a process for each family, two at a time; those that are left are in *running*."""
    loader, before = os.getpid(), list[int]()
    for family in wanted:
        if len(running) >= _PARALLEL:
            _reap(running, sources.work, channel)
        mine, held = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(mine)
            _family_child(loader, family, plan, shared, sources, channel, before)
        os.close(held)
        before.append(mine)
        running[pid] = family


def run(channel: socket.socket, work: Path) -> None:
    """Serve one plan, with files in *work*, which is removed. Errors are sent as ``fatal``."""
    asked = channel.recv(_PACKET)
    if not asked:  # the supervisor is gone
        return
    plan = plans.Plan.load(asked)
    plan.check()
    # Before 5.11 maps count against this limit; where it can't be raised, making a map says so by EPERM.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        preflight.check()  # what no probe can do without, before half a minute goes into compiling
        sources = Sources.of_kernel(work, Cache(cache_home()))
        wanted = [family for family in FAMILIES if family.name in plan.families]
        if any(sources.known(family, plan.cpus, likely(family.name, plan.only())) is None for family in wanted):
            compiler.import_bcc()  # once, before the children: 100 MB of LLVM
        shared = plans.create_shared(plan)
        _watch(plan, shared)
        for slot, pid in ((0, os.getppid()), (2, os.getpid())):  # OWN_* in probes/common.h
            bpf.map_update(shared["settings"], struct.pack("<I", slot), struct.pack("<Q", pid))
        bpf.map_update(shared["owner"], struct.pack("<I", 0), struct.pack("<Q", os.getppid()))
        bpf.map_freeze(shared["owner"])
        _send(channel, {"kind": "maps", "names": list(plans.SHARED)}, [shared[name] for name in plans.SHARED])
        running: dict[int, Family] = {}
        _families(wanted, plan, shared, sources, channel, running)
        while running:
            _reap(running, work, channel)
        _turn(channel, plan, "")  # the last family is looked at too
        _send(channel, {"kind": "seed"}, [_seed()])
        _send(channel, {"kind": "done", "missing": sources.missing})
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """Entry point: descriptor of the channel, then an empty directory, which the supervisor removes too."""
    children.die_with(os.getppid())
    children.call_itself(LOADER_COMM)  # the report of a crash while it loads names it
    channel = socket.socket(fileno=int(sys.argv[1]))
    work = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="sensor-load-"))
    try:
        run(channel, work)
    except HostError as error:
        _fatal(channel, error.reason, error.fix, getattr(error, "lack", "load"))
    except (SensorError, OSError) as error:
        _fatal(channel, f"{type(error).__name__}: {error}", "run as root" if isinstance(error, PermissionError) else "")
    sys.stdout.flush()
    os._exit(0)


def _fatal(channel: socket.socket, reason: str, fix: str, lack: str = "load") -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone, and with it everything that was attached
        _send(channel, {"kind": "fatal", "lack": lack, "reason": reason, "fix": fix})


if __name__ == "__main__":
    main()
