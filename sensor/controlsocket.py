"""The supervisor's control socket: what root may ask a running sensor, in requests of eight bytes.

``/run/sensor/control`` is a packet socket for root alone, by its mode and by who is at the other end. A request is
a magic, a kind and two numbers out of enumerations: there is nothing to parse. The answer is one packet of JSON,
for it goes from root to root. One request a connection, few connections at once, few requests a second: whoever
asks too much is hung up on, and the probes don't wait for it. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "control"
#: Drills by number.
DRILLS = ("breaker", "canary", "guard", "rollback", "loss")
RESULTS = ("ok", "failed", "unavailable")
#: Kinds of requests. ``drill`` names a drill to be run here, ``drilled`` one that its client has run, with its result.
STATUS, DRILL, DRILLED = 1, 2, 3
ANSWER_BYTES = 1 << 18

_MAGIC = b"SCT1"
_REQUEST = struct.Struct("<4sBBBB")
REQUEST_BYTES = _REQUEST.size
_CLIENTS = 4
#: Requests that may come at once, and how many a second come on top: `sensor top` asks once a second.
_BURST, _A_SECOND = 20.0, 10.0
_PEER = struct.Struct("iII")  # struct ucred
_RUNTIME = Path("/run/sensor")


def runtime_home() -> Path:
    """Directory of the socket: what systemd made for the unit, or its usual place."""
    return Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or _RUNTIME)


@dataclass(frozen=True, slots=True)
class Request:
    """``drill`` and ``result`` are "" where the kind has none."""

    kind: int
    drill: str = ""
    result: str = ""

    def pack(self) -> bytes:
        """Encode; numbers begin with 1, and 0 stands for nothing."""
        drill = DRILLS.index(self.drill) + 1 if self.drill else 0
        return _REQUEST.pack(_MAGIC, self.kind, drill, RESULTS.index(self.result) + 1 if self.result else 0, 0)


def parse(data: bytes) -> Request | None:
    """Decode; None for whatever :meth:`Request.pack` would not have written."""
    if len(data) != _REQUEST.size:
        return None
    magic, kind, drill, result, rest = _REQUEST.unpack(data)
    # Which of the two numbers a kind has.
    wanted = {STATUS: (False, False), DRILL: (True, False), DRILLED: (True, True)}.get(kind)
    if magic != _MAGIC or rest or wanted != (bool(drill), bool(result)) or drill > len(DRILLS) or result > len(RESULTS):
        return None
    return Request(kind, DRILLS[drill - 1] if drill else "", RESULTS[result - 1] if result else "")


def peer_uid(connection: socket.socket) -> int:
    """Who is at the other end, as the kernel knows it; -1 where it is gone. Source: unix(7), SO_PEERCRED."""
    try:
        return int(_PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1])
    except OSError:
        return -1


class ControlSocket:
    """The server's side.

    Args:
        selector: Tells of connections and requests; its data are functions without arguments.
        answer: Gives the answer to a request. What it raises closes the connection and is said.
        say: For people.
        monotonic: Seconds.
    """

    def __init__(self, selector: selectors.BaseSelector, answer: Callable[[Request], dict[str, Any]],
                 say: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._selector, self._answer, self._say, self._monotonic = selector, answer, say, monotonic
        self._listener: socket.socket | None = None
        self._directory = -1
        self._clients: list[socket.socket] = []  # oldest first
        self._tokens, self._since = _BURST, monotonic()

    def open(self, directory: Path) -> bool:
        """Listen there. Where that can't be, it is said, and the sensor runs without: its own work needs none of it."""
        try:
            directory.mkdir(mode=0o755, exist_ok=True)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            facts = os.fstat(self._directory)
            if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
                raise PermissionError(1, f"others may write there: chown root {directory}; chmod 755 {directory}")
            # The lock is the living server's, and goes with it: a socket that is left over has none.
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._listener = self._listen()
        except BlockingIOError:
            self._say(f"another sensor has {directory / NAME}: `sensor status` shows that one")
        except OSError as error:
            self._say(f"no control socket, `sensor status` can't work: {directory / NAME}: {error.strerror or error}")
        if self._listener is None:
            self.close()
            return False
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return True

    def _listen(self) -> socket.socket:
        # By the descriptor: a path may be longer than the 107 bytes of a socket's address.
        path = f"/proc/self/fd/{self._directory}/{NAME}"
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(17, "there is something that is no socket; remove it")
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            listener.bind(path)
            listener.listen(_CLIENTS)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(before)
        return listener

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone again, or no descriptor left
            return
        if peer_uid(connection) not in (0, os.geteuid()) or not self._token():
            connection.close()
            return
        if len(self._clients) >= _CLIENTS:  # who has been connected longest and has not asked yet
            self._drop(self._clients[0])
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ANSWER_BYTES)
        self._clients.append(connection)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _token(self) -> bool:
        now = self._monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._since) * _A_SECOND)
        self._since = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _read(self, connection: socket.socket) -> None:
        if connection not in self._clients:  # dropped by what came before it in the same round
            return
        try:
            request = parse(connection.recv(REQUEST_BYTES + 1))
            if request is not None:
                # The packet is the whole answer: a client that does not take it has none, and holds up nobody.
                connection.send(json.dumps(self._answer(request)).encode(), socket.MSG_DONTWAIT)
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001  whatever goes wrong with an answer, the probes stay
            self._say(f"a request to the control socket failed: {type(error).__name__}: {error}")
        finally:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        if connection in self._clients:
            self._clients.remove(connection)
            self._selector.unregister(connection)
            connection.close()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        for connection in list(self._clients):
            self._drop(connection)
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                os.unlink(NAME, dir_fd=self._directory)
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
