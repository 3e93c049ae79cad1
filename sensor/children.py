"""Starts the supervisor's two children with nothing inherited but what they need."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

#: In the environment: 0 is as if the C extension weren't there.
NATIVE_SWITCH = "SENSOR_NATIVE"
#: Bytes that a UNIX socket must take in one packet: a plan, or a family's report with verifier logs.
SOCKET_BYTES = 1 << 18


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected packet sockets."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    return pair


def die_with(parent: int) -> None:
    """Get SIGKILL when the process that started this one ends; end at once if *parent* is gone already.

    Nobody must go on compiling and attaching for a dead supervisor. Source: prctl(2), PR_SET_PDEATHSIG.
    """
    ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def unseen() -> None:
    """Let processes of the same user neither trace this one nor open its memory. Source: prctl(2), PR_SET_DUMPABLE."""
    ctypes.CDLL(None).prctl(4, ctypes.c_ulong(0), 0, 0, 0)


def call_itself(name: str) -> None:
    """Name this process in the kernel's own texts too, 15 characters. Source: prctl(2), PR_SET_NAME."""
    ctypes.CDLL(None).prctl(15, ctypes.create_string_buffer(name.encode()[:15]), 0, 0, 0)


def start(module: str, channel: socket.socket, arguments: Sequence[str] = (),
          keep: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Run ``module.main()`` in a fresh interpreter that holds *channel*.

    The child gets this process's import path as it is: ``-m`` would put the working directory
    first, from which a root daemon must not import.
    """
    code = f"import sys; sys.path[:] = {json.dumps(sys.path)}; from {module} import main; main()"
    # -B: writing caches as root into somebody's checkout is not ours to do.
    command = [sys.executable, "-I", "-B", "-c", code, str(channel.fileno()), *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[channel.fileno(), *keep],
                            start_new_session=False, env=_environment())


def start_with_channel(module: str, arguments: Sequence[str] = ()) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a child with a channel of its own; nothing is left open where it can't be (OSError)."""
    ours, theirs = channel_pair()
    with theirs:
        try:
            return start(module, theirs, arguments), ours
        except OSError:
            ours.close()
            raise


def _environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "TZ", "TERM", "NO_COLOR", "COLUMNS", "JOURNAL_STREAM", "INVOCATION_ID",
            "NOTIFY_SOCKET", "CACHE_DIRECTORY", "STATE_DIRECTORY", NATIVE_SWITCH)
    return {name: os.environ[name] for name in kept if name in os.environ}


def processor_ns(pid: int) -> tuple[int, int]:
    """How long the first thread of a process has run and has waited for a processor; zeros where nobody tells."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            ran, waited, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0, 0
    return ran, waited
