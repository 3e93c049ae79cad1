"""Sockets that the service manager opened for us: sd_listen_fds(3) without a library.

Under systemd the sensor has no network of its own (PrivateNetwork=yes); sensor.socket opens the
metrics port and the descriptor is inherited.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping

FIRST = 3  # SD_LISTEN_FDS_START


def inherited(environ: MutableMapping[str, str] | None = None, pid: int | None = None) -> list[int]:
    """Descriptors of the listening stream sockets that were passed to this process; close-on-exec from now on.

    The variables are removed, so that a second call, or a child, finds nothing. What is no
    listening stream socket is left alone. *environ* and *pid* are for tests.
    """
    environ = os.environ if environ is None else environ
    meant, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not meant.isdecimal() or not count.isdecimal() or int(meant) != (os.getpid() if pid is None else pid):
        return []
    found = []
    for fd in range(FIRST, FIRST + min(int(count), 16)):
        if _listens(fd):
            os.set_inheritable(fd, False)
            found.append(fd)
    return found


def _listens(fd: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        probe = socket.socket(fileno=os.dup(fd))
    except OSError:
        return False
    with probe:
        return probe.type == socket.SOCK_STREAM and bool(probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
