"""The canary: a small child that, on each processor it is asked for, does what each kind of our programs must see.

A thread is made and ends (on_fork, on_exit), a system call that nobody else handles is made (on_canary, behind the
dispatcher), a memory file's mode is set (the security hook of chmod). The programs count these for the process that
the settings name, before anything is filtered, and emit no event. In a process of its own, for whoever is pinned to a
processor that hangs, hangs: the supervisor must not, and this one holds nothing that keeps probes attached. It lives
as long as the probes, so that its beginning and end are no events twice a minute. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable

from sensor import children
from sensor.kernel.hooks import CANARY_CALL

COMM = "sensor-canary"
REQUEST_BYTES = 1 << 16
#: Answer: a processor, and 0 or the errno that kept us from it.
ANSWER = struct.Struct("<Ii")
_TIMES = 3  # one may be left out where somebody else's run of the same program was interrupted by ours


def acts() -> Callable[[], None]:
    """What is done on each processor."""
    call = ctypes.CDLL(None).syscall
    file = os.memfd_create(COMM, os.MFD_CLOEXEC)

    def act() -> None:
        for _ in range(_TIMES):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            call(CANARY_CALL)
            os.fchmod(file, 0o600)

    return act


def sing(cpus: Iterable[int], act: Callable[[], None], tell: Callable[[bytes], object]) -> None:
    """Act on each processor and tell of it."""
    for cpu in cpus:
        fault = 0
        try:
            os.sched_setaffinity(0, {cpu})
            act()
        except OSError as error:
            fault = error.errno or -1
        except RuntimeError:  # no thread could be started
            fault = -1
        tell(ANSWER.pack(cpu, fault))


def main() -> None:
    """Entry point: descriptor of the channel. A request is a JSON list of processors."""
    children.die_with(os.getppid())
    children.call_itself(COMM)
    channel = socket.socket(fileno=int(sys.argv[1]))
    act = acts()
    while request := channel.recv(REQUEST_BYTES):
        sing(json.loads(request), act, channel.send)
