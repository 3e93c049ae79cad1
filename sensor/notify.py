"""sd_notify(3) without a library: one datagram to the service manager."""

from __future__ import annotations

import contextlib
import os
import socket

#: How long a manager may take to read. One that hangs must not hold up who holds the probes.
_SECONDS = 1.0


class Notifier:
    """Sends state lines to the socket in NOTIFY_SOCKET; does nothing where there is none."""

    def __init__(self, address: str | None) -> None:
        self._address = address and ("\0" + address[1:] if address.startswith("@") else address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.settimeout(_SECONDS)

    @classmethod
    def from_environment(cls) -> Notifier:
        """The service manager of this process, if any."""
        return cls(os.environ.get("NOTIFY_SOCKET"))

    @property
    def active(self) -> bool:
        """Whether a service manager listens."""
        return self._socket is not None

    def send(self, line: str) -> None:
        """Send e.g. ``READY=1``. A manager that is gone is no reason to stop."""
        if self._socket is not None and self._address is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(line.encode(), self._address)
