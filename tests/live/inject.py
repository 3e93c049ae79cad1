"""Makes one system call of a process tree fail, or kills its caller there: from outside, by seccomp's notifications.

The loader asks the kernel for something some hundred times. Each of these calls is a place (who, which call,
how often before), and a :class:`Fault` is a place and what shall happen there. Calls elsewhere go on untouched.

    python -m tests.live.inject REPORT GO PROGRAM ARGUMENT…

installs the filter, writes the listener's number to the descriptor REPORT, waits for a byte from GO, and becomes
PROGRAM. Source: seccomp_unotify(2), pidfd_getfd(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import struct
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_SECCOMP, _PIDFD_GETFD = 317, 438
_SET_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_ALLOW, _NOTIFY, _X86_64 = 0x7FFF0000, 0x7FC00000, 0xC000003E
CALLS = {"bpf": 321, "perf_event_open": 298, "sendmsg": 46, "memfd_create": 319}
_IOCTL, _PERF_REQUESTS = 16, (0x40042408, 0x2400)  # before 5.15 these attach a program to a perf event
_NAMES = {**{number: name for name, number in CALLS.items()}, _IOCTL: "ioctl"}

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _instruction(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, k)


def _filter() -> bytes:
    load, equal, give = 0x20, 0x15, 0x06
    body = [_instruction(load, 4), _instruction(equal, _X86_64, 1, 0), _instruction(give, _ALLOW)]
    body.append(_instruction(load, 0))
    for number in CALLS.values():
        body += [_instruction(equal, number, 0, 1), _instruction(give, _NOTIFY)]
    body += [_instruction(equal, _IOCTL, 1, 0), _instruction(give, _ALLOW), _instruction(load, 24)]
    for request in _PERF_REQUESTS:
        body += [_instruction(equal, request, 0, 1), _instruction(give, _NOTIFY)]
    return b"".join([*body, _instruction(give, _ALLOW)])


def install(report: int, go: int) -> None:
    """Filter this process and all that it starts; returns when the listener has been taken."""
    text = _filter()
    code = ctypes.create_string_buffer(text, len(text))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(text) // 8, ctypes.addressof(code)))
    listener = _checked(_libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, program))
    os.write(report, b"%d\n" % listener)
    os.close(report)
    os.read(go, 1)
    os.close(go)
    os.close(listener)


@dataclass(frozen=True, slots=True)
class Fault:
    """At the *index*-th *call* of *role*: *action* is an errno, or the negative number of a signal.

    A role is "supervisor", "engine", "loader" or the name of the family that a child of the loader has to do.
    """

    role: str
    call: str
    index: int
    action: int

    def __str__(self) -> str:
        what = signal.Signals(-self.action).name if self.action < 0 else os.strerror(self.action)
        return f"{self.role}: {self.call} {self.index}: {what}"


class Injector(threading.Thread):
    """Answers the calls of one process tree until it is gone."""

    def __init__(self, fault: Fault | None, root_role: str = "supervisor") -> None:
        super().__init__(daemon=True)
        self.fault, self._root_role = fault, root_role
        self.counts: Counter[tuple[str, str]] = Counter()
        self.pids: set[int] = set()
        self.hit = False
        self._listener = -1
        # What the child is given, and what stays here.
        self._report, self.report = os.pipe()
        self.go, self._go = os.pipe()

    def take(self, pid: int) -> None:
        """Get the child's listener, let the child go on, and begin to answer."""
        os.close(self.report)
        os.close(self.go)
        number = os.read(self._report, 16)
        os.close(self._report)
        if not number:
            raise AssertionError("the child died before it had a filter")
        pidfd = os.pidfd_open(pid)
        self._listener = _checked(_libc.syscall(_PIDFD_GETFD, pidfd, int(number), 0))
        os.close(pidfd)
        self.start()
        os.write(self._go, b".")
        os.close(self._go)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
            self._answer()
        os.close(self._listener)

    def _answer(self) -> None:
        notice = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, notice)
        except OSError:
            return  # the caller is gone
        number, pid, _, call = struct.unpack_from("<QIIi", notice)
        error = self._decide(pid, _NAMES[call])
        try:
            fcntl.ioctl(self._listener, _SEND, struct.pack("<QqiI", number, 0, -error, 0 if error else _CONTINUE))
        except OSError:
            return

    def _decide(self, pid: int, call: str) -> int:
        role = self._role(pid)
        self.pids.add(pid)
        self.counts[role, call] += 1
        fault = self.fault
        if fault is None or (role, call, self.counts[role, call]) != (fault.role, fault.call, fault.index):
            return 0
        self.hit = True
        if fault.action < 0:
            os.kill(pid, -fault.action)
            return 0
        return fault.action

    def _role(self, pid: int) -> str:
        try:
            errors = Path(os.readlink(f"/proc/{pid}/fd/2"))
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return "gone"
        if errors.suffix == ".log":  # children of the loader have one each
            return errors.stem
        return next((role for role in ("engine", "loader") if f"sensor.{role}" in command
                     or f"sensor.kernel.{role}" in command), self._root_role)


if __name__ == "__main__":
    install(int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
