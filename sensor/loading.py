"""The loader at work: its process and channel, and what it has brought so far. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sensor import children
from sensor.kernel.plan import Plan
from sensor.loaded import Load

LOAD_SECONDS = 180.0  # for each step: a family that is loaded starts the time anew
_SLACK_SECONDS = 60.0  # what the service manager waits beyond that


class Loading:
    """One supervisor's loader.

    Args:
        selector: Watches the loader's channel.
        after: Sets a deadline of the supervisor: its name ("load") and seconds.
        say: For people.
        notify: Sends a line to the service manager.
        taken: A message of the loader has been added to ``load``.
        finished: The loader says no more; ``load.fatal`` or ``load.done`` tell what came of it.
    """

    def __init__(self, selector: selectors.BaseSelector, after: Callable[[str, float], None],
                 say: Callable[[str], None], notify: Callable[[str], None],
                 taken: Callable[[dict[str, Any]], None], finished: Callable[[], None]) -> None:
        self._selector, self._after, self._say, self._notify = selector, after, say, notify
        self._taken, self._finished = taken, finished
        self.load = Load()
        self.generation = 0  # when the rings were made, ns CLOCK_BOOTTIME: numbers of records begin anew with them
        self._plan: Plan | None = None
        self._process: Any = None
        self._channel: socket.socket | None = None
        self._work, self._late = "", False  # its directory; whether it took too long

    @property
    def busy(self) -> bool:
        """Whether a loader is running."""
        return self._process is not None

    def start(self, plan: Plan) -> None:
        """Start it; raises OSError where there is no directory for its files, no descriptor or no process."""
        self._work = tempfile.mkdtemp(prefix="sensor-load-")
        self._plan, self._late = plan, False
        try:
            self._process, ours = children.start_with_channel("sensor.kernel.loader", [self._work])
        except OSError:
            shutil.rmtree(self._work, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):  # killed already: the end of its channel tells
            ours.send(replace(plan, turns=True).dump())
        self.generation = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._attend(ours)
        self._after("load", LOAD_SECONDS)

    def _attend(self, channel: socket.socket) -> None:
        self._channel = channel
        self._selector.register(channel, selectors.EVENT_READ, self.receive)

    def receive(self) -> None:
        """Take one message, or the end, from the channel."""
        assert self._channel is not None
        try:
            data, fds, flags, _ = socket.recv_fds(self._channel, children.SOCKET_BYTES, 253)
        except ConnectionResetError:  # it was killed before it had read its plan
            data, fds, flags = b"", [], 0
        for fd in fds:
            os.set_inheritable(fd, False)
        if flags & socket.MSG_CTRUNC:  # half of what was attached is detached again by now
            self.load.keep(fds)
            self.lack("too few descriptors for what the loader attached", "raise the limit of open files (ulimit -n)")
        elif data:
            self._take(data, fds)
            self._after("load", LOAD_SECONDS)
            # Before READY=1 systemd would end us at TimeoutStartSec: a slow host is no failed one.
            self._notify(f"EXTEND_TIMEOUT_USEC={(LOAD_SECONDS + _SLACK_SECONDS) * 1e6:.0f}")
        if not data or self.load.done or self.load.fatal:
            self._end()

    def _take(self, data: bytes, fds: list[int]) -> None:
        try:
            message = json.loads(data)
            self.load.take(message, fds)
            self._taken(message)
        except OSError as error:
            self.lack(f"the kernel does not tell about a program that it has loaded: {error}", "sensor doctor")

    def answer(self, data: bytes) -> None:
        """Answer a family that has asked for its turn."""
        if self._channel is not None:
            with contextlib.suppress(OSError):  # killed: the end of its channel tells
                self._channel.send(data, socket.MSG_DONTWAIT)

    def lack(self, reason: str, fix: str, lack: str = "load") -> None:
        """Nothing of it may stay, and why."""
        self.load.fatal = {"lack": lack, "reason": reason, "fix": fix}

    def _end(self) -> None:
        assert self._channel is not None
        self._selector.unregister(self._channel)
        self._channel.close()
        self._channel = None
        if self.load.fatal is not None:  # it may be at work still
            self.kill()
        shutil.rmtree(self._work, ignore_errors=True)  # a loader that was killed leaves it
        if not self.load.done and self.load.fatal is None:
            self._unfinished()
        if self.load.fatal is None and "process" not in self.load.families:
            self.lack("the process probes did not load", "sensor doctor")
        self._finished()

    def _unfinished(self) -> None:
        """The loader ended early. After a time-out what is loaded is kept, if the process probes are among it."""
        if not self._late or "process" not in self.load.families:
            self.lack("the loader ended before it was done", "sensor doctor")
            return
        assert self._plan is not None
        self.load.failures += [{"event": "", "program": name, "target": "family", "reason": "not loaded in time"}
                               for name in self._plan.families if name not in self.load.families]
        self.load.done = True

    def late(self) -> None:
        """It has made no progress for too long."""
        self._say(f"loading made no progress for {LOAD_SECONDS:.0f} s and was ended")
        self._late = True
        self.kill()

    def kill(self) -> None:
        """End it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def reap(self) -> None:
        """Notice that it has ended."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            shutil.rmtree(self._work, ignore_errors=True)

    def let_go(self) -> None:
        """Detach and unload everything; what was told of it stays."""
        self.load.close()

    def anew(self) -> None:
        """Forget all of it; it has to be let go before."""
        self.load = Load()
