"""Starts the processes that parse rules, for an engine that may start none: it is forked before that is given up.

It has the engine's user and no privilege either. A request is three descriptors and one byte, so whoever has taken
the engine over can start the parser of rules, confined as ever, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Iterable

from sensor import children, rulechild

NAME = "sensor-zygote"
_NUMBER = struct.Struct("<i")
_KILLED = -int(signal.SIGKILL)
_STARTED = 0


class Started:
    """One process, as :class:`subprocess.Popen` would show it: by the answers of the one that watches it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._status = channel, 0
        self._ended = False

    def poll(self) -> int | None:
        """Its status, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Its status. Raises subprocess.TimeoutExpired."""
        if not self._ended:
            ready = select.select([self._channel], [], [], timeout)[0]
            if not ready:
                raise subprocess.TimeoutExpired(NAME, timeout or 0.0)
            self._status, self._ended = _number(self._channel, _KILLED), True
            self._channel.close()
        return self._status

    def kill(self) -> None:
        """End it."""
        if not self._ended:
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)


class Zygote:
    """Forks it. Call before there are threads, and after the privileges are gone.

    Args:
        keep: Descriptors that imports go through; it closes all others.
    """

    def __init__(self, keep: Iterable[int] = ()) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        engine = os.getpid()
        if not os.fork():
            try:
                self._channel.close()
                _serve(theirs, {*keep}, engine)
            finally:
                os._exit(0)
        theirs.close()

    def start(self, job: int, output: int, polite: bool) -> Started:
        """As :func:`rulechild.start`, there. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                socket.send_fds(self._channel, [bytes([polite])], [theirs.fileno(), job, output])
            ours.settimeout(rulechild.WALL_SECONDS)
            if number := _number(ours, -1):
                raise OSError(number, os.strerror(number) if number > 0 else "its process is gone")
        except BaseException:
            ours.close()
            raise
        return Started(ours)


def _number(channel: socket.socket, otherwise: int) -> int:
    try:
        data = channel.recv(_NUMBER.size)
    except ConnectionError:
        data = b""
    return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else otherwise


# --- in the zygote -----------------------------------------------------------------------------


def _serve(channel: socket.socket, keep: set[int], engine: int) -> None:
    children.die_with(engine)
    children.call_itself(NAME)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks what became of a watcher
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(nothing, fd)
    for fd in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep and fd != channel.fileno():
            with contextlib.suppress(OSError):
                os.close(fd)
    zygote = os.getpid()
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 1, 3)
        if not data:
            return
        if len(fds) == 3 and not os.fork():
            channel.close()
            _watch(socket.socket(fileno=fds[0]), fds[1], fds[2], bool(data[0]), zygote)
            os._exit(0)
        for fd in fds:
            os.close(fd)


def _watch(reply: socket.socket, job: int, output: int, polite: bool, zygote: int) -> None:
    """Start the process, say so, and wait for it or for the engine to lose interest."""
    children.die_with(zygote)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        process = rulechild.start(job, output, polite)
    except OSError as error:
        reply.send(_NUMBER.pack(error.errno or 1))
        return
    with contextlib.suppress(OSError):
        reply.send(_NUMBER.pack(_STARTED))
        ended = os.pidfd_open(process.pid)
        if reply.fileno() in select.select([reply.fileno(), ended], [], [])[0]:
            process.kill()
    status = process.wait()
    with contextlib.suppress(OSError):
        reply.send(_NUMBER.pack(status))
