"""The other end of the control socket: one question to the running sensor, one answer."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from sensor.controlsocket import ANSWER_BYTES, NAME, Request, peer_uid, runtime_home
from sensor.errors import HostError

_SECONDS = 15.0
_START = "sudo systemctl start sensor, or in a terminal: sudo sensor run"


def ask(request: Request, command: str, directory: Path | None = None) -> dict[str, Any]:
    """The answer to one request.

    Args:
        request: What to ask.
        command: The command that asks, for messages.
        directory: Where the socket is; None: the usual place.

    Raises:
        HostError: No sensor runs, it may not be asked, or it doesn't answer.
    """
    place = directory or runtime_home()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(_SECONDS)
        try:
            folder = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # by the descriptor: the path may be longer than an address
                connection.connect(f"/proc/self/fd/{folder}/{NAME}")
            finally:
                os.close(folder)
            if peer_uid(connection) not in (0, os.geteuid()):
                raise HostError(f"{place / NAME} belongs to another user", f"ls -l {place / NAME}")
            connection.send(request.pack())
            data = connection.recv(ANSWER_BYTES)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise HostError("no sensor is running here", _START) from None
        except PermissionError:
            raise HostError("only root may ask the sensor", f"sudo {command}") from None
        except (TimeoutError, BlockingIOError):
            raise HostError(f"the sensor did not answer within {_SECONDS:.0f} s", "journalctl -u sensor") from None
        except OSError as error:
            raise HostError(f"the sensor can't be asked: {error.strerror}", "journalctl -u sensor") from error
    if not data:
        raise HostError("the sensor hung up: it stops, or was asked too often", f"{command}, once more in a second")
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise HostError("the sensor gave an answer that makes no sense: it may be another version",
                        "sudo systemctl restart sensor")
    return answer
