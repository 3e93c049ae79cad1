"""The engine as the supervisor has it: a process without rights, the channel to it, and how long it may be silent."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from sensor import children, control

ENGINE_SILENT_SECONDS = 30.0
STARVED_MOST = 10  # times in a row that a silent engine is excused by its waiting for a processor


class EngineChild:
    """One engine after the other.

    Args:
        selector: Where its channel is waited for.
        heard: Takes each packet that it may send.
        say: Takes sentences for the operator.
    """

    def __init__(self, selector: selectors.BaseSelector, heard: Callable[[bytes], None],
                 say: Callable[[str], None]) -> None:
        self._selector, self._heard, self._say = selector, heard, say
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0  # monotonic
        self.told_to_end = False  # and that another one follows it
        self._channel: socket.socket | None = None
        self._pace = control.Pace()
        self._starved, self._spent = 0, (0, 0)  # what its first thread had run and waited when last heard of

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self.process.pid if self.process is not None else 0

    @property
    def connected(self) -> bool:
        """Whether it can be told something."""
        return self._channel is not None

    @property
    def dropped(self) -> int:
        """Packets of all engines that were one too many."""
        return self._pace.dropped

    def start(self, arguments: Sequence[str], keep: Sequence[int]) -> None:
        """Start one that inherits the descriptors of *keep*. Raises OSError."""
        ours, theirs = children.channel_pair()
        self.told_to_end = False
        self.process = children.start("sensor.engine", theirs, arguments, keep)
        theirs.close()
        self.attend(ours)
        self.started, self._starved = time.monotonic(), 0
        self.expected()

    def attend(self, channel: socket.socket) -> None:
        """Listen to an engine."""
        self._channel = channel
        self._selector.register(channel, selectors.EVENT_READ, self.receive)

    def receive(self) -> None:
        """Take one packet, or the channel's end."""
        assert self._channel is not None
        try:
            data = self._channel.recv(control.PACKET_BYTES)
        except OSError:
            data = b""
        if not data:
            self.close()
        elif self._pace.take(time.monotonic()):
            self._heard(data)
        elif self._pace.begins:
            self._say(f"the engine makes more than {control.REQUESTS_PER_SECOND} requests a second; the rest of "
                      f"them is dropped ({self._pace.dropped} so far)")

    def tell(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send it a message, with descriptors."""
        if self._channel is None:
            return
        try:
            socket.send_fds(self._channel, [json.dumps(message).encode()], [*fds], socket.MSG_DONTWAIT)
        except OSError as error:
            # A full socket is an engine that does not read; its silence is noticed elsewhere.
            self._say(f"the engine did not take {message['kind']}: {error.strerror}")

    def hand(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        """The same, and close the descriptors here."""
        self.tell(message, fds)
        for fd in fds:
            os.close(fd)

    def lives(self) -> None:
        """It has said something that makes sense."""
        self._starved = 0

    def expected(self) -> None:
        """Its time to be silent begins now."""
        if self.process is not None:
            self._spent = children.processor_ns(self.process.pid)

    def excused(self) -> bool:
        """Whether its silence is that of one who finds no processor: another one would find none either."""
        ran, waited = (now - then for now, then in zip(children.processor_ns(self.pid), self._spent, strict=True))
        if waited <= max(2 * ran, ENGINE_SILENT_SECONDS / 2 * 1e9) or self._starved >= STARVED_MOST:
            return False
        self._starved += 1
        self._say(f"the engine was silent for {ENGINE_SILENT_SECONDS:.0f} s, and had to wait for a processor for "
                  f"{waited / 1e9:.0f} s; it is left to go on")
        return True

    def ended(self) -> int | None:
        """Its status, once, when it has ended."""
        # By pid through Popen, never waitpid(-1): only our own children are ours to reap.
        status = self.process.poll() if self.process is not None else None
        if status is not None:
            self.close()
            self.process = None
        return status

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def close(self) -> None:
        """Let go of the channel."""
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
