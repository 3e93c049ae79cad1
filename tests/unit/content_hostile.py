"""What a parser does that somebody has taken over; run in a child of sandbox.py by its tests."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, BinaryIO

from sensor.content import sandbox
from sensor.errors import UsageError


def reason(deed: str) -> str:
    """What the parent gets to hear."""
    limits = sandbox.Limits(cpu=1, wall=2 if deed == "sleep" else 60, answer=1000)
    return sandbox.run("tests.unit.content_hostile:do", {"deed": deed}, [], limits).reason


def do(arguments: dict[str, Any], out: BinaryIO) -> None:
    """One deed."""
    deed = arguments["deed"]
    if deed == "spin":
        while True:
            pass
    if deed == "swell":
        held = [bytes(1 << 20)]
        while True:
            held.append(bytes(1 << 20))
    if deed == "crash":
        ctypes.string_at(0)
    if deed == "gush":
        while True:
            out.write(b"x" * 4096)
    if deed == "network":
        socket.socket()
    if deed == "program":
        subprocess.run(["/bin/true"], check=True)
    if deed == "sleep":
        time.sleep(600)
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    raise UsageError(f"uid {os.getuid()} of CapEff {status['CapEff']}")
