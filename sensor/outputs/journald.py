"""The journal's native protocol: one datagram an entry, over a UNIX socket.

A value with a newline is length-prefixed; an entry too large for a datagram travels as a sealed
memfd. Both as systemd's JOURNAL_NATIVE_PROTOCOL document lays down.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from sensor.outputs.counts import Counts, reason_of
from sensor.outputs.ecs_json import EncodeError, encode
from sensor.outputs.summary import describe, value_at
from sensor.outputs.terminal import terminal_safe

SOCKET = "/run/systemd/journal/socket"

#: syslog priorities: critical, error, warning, notice; info for what is no alert.
PRIORITIES = {"critical": 2, "high": 3, "medium": 4, "low": 5, "informational": 6}
_PRIORITY_OTHER = 6

#: Journal field -> key of the document. Field names: upper case, digits, underscores; at most 64.
FIELDS = {
    "SENSOR_RULE_ID": "rule.id",
    "SENSOR_RULE_NAME": "rule.name",
    "SENSOR_LEVEL": "rule.level",
    "SENSOR_TECHNIQUE": "threat.technique.id",
    "SENSOR_EVENT_ID": "event.id",
    "SENSOR_ACTION": "event.action",
    "SENSOR_PID": "process.pid",
    "SENSOR_EXECUTABLE": "process.executable",
    "SENSOR_COMMAND_LINE": "process.command_line",
    "SENSOR_PARENT_EXECUTABLE": "process.parent.executable",
    "SENSOR_USER": "user.name",
    "SENSOR_FILE": "file.path",
    "SENSOR_DESTINATION": "destination.ip",
    "SENSOR_CONTAINER": "container.id",
}

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Journal:
    """An output to journald. A journal that is away or busy costs the entry, never time."""

    name = "journald"

    def __init__(self, path: str = SOCKET, clock: Callable[[], float] = time.time) -> None:
        self.counts = Counts()
        self._path, self._clock = path, clock
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_UNIX, kind)

    def write(self, document: dict[str, Any]) -> None:
        """Send one entry, at once."""
        try:
            entry = encode_entry(document)
        except EncodeError:
            self.counts.drop("encode")
            return
        try:
            self._send(entry)
        except OSError as error:
            self.counts.drop(reason_of(error))
            return
        self.counts.events += 1
        self.counts.bytes += len(entry)
        self.counts.last_success = self._clock()

    def _send(self, entry: bytes) -> None:
        try:
            # Not connected: a restarted journald is found again by the next entry.
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_memfd(entry)

    def _send_memfd(self, entry: bytes) -> None:
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as stream:
                stream.write(entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)

    def flush(self) -> None:
        """Nothing is buffered."""

    def reopen(self) -> None:
        """Nothing is held open by name."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def encode_entry(document: dict[str, Any]) -> bytes:
    """One journal entry: MESSAGE, PRIORITY, SYSLOG_IDENTIFIER, the SENSOR_* fields, SENSOR_JSON.

    Raises:
        EncodeError: As of :func:`sensor.outputs.ecs_json.encode`.
    """
    return b"".join(_field(name, value) for name, value in _fields(document))


def _fields(document: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    level = value_at(document, "rule.level")
    priority = PRIORITIES.get(level, _PRIORITY_OTHER) if isinstance(level, str) else _PRIORITY_OTHER
    yield "MESSAGE", terminal_safe(describe(document)).encode()
    yield "PRIORITY", str(priority).encode()
    yield "SYSLOG_IDENTIFIER", b"sensor"
    for name, key in FIELDS.items():
        value = value_at(document, key)
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                yield name, str(item).encode("utf-8", "surrogateescape")
    yield "SENSOR_JSON", encode(document).rstrip(b"\n")


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
