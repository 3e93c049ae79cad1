"""Bodies for the process that reads rules: what a parser does that a hostile file has got hold of."""

from __future__ import annotations

import ctypes
import os
import sys
import time

from sensor import confine, rulechild

HOW = "HOSTILE_CHILD="


def main() -> None:
    """Do what the name of the first rule file says, confined as the real one is."""
    data = os.pread(int(sys.argv[2]), 1 << 20, 0).decode()
    how = data.partition(HOW)[2].split()[0]
    rulechild._work = globals()[how]
    rulechild.main()


def crash(job: int) -> bytes:
    ctypes.string_at(0)
    return b""


def hang(job: int) -> bytes:
    time.sleep(600)
    return b""


def spin(job: int) -> bytes:
    confine.memory_and_files()
    confine.CPU_LEAST = confine.CPU_MOST = confine.CPU_TIMES = 1
    confine.cpu_time()
    while True:
        pass


def fill(job: int) -> bytes:
    confine.memory_and_files()
    held = []
    while True:
        held.append(bytearray(1 << 20))


def flood(job: int) -> bytes:
    confine.memory_and_files()
    return bytes(confine.OUTPUT_BYTES + 1)


def lie(job: int) -> bytes:
    return b'{"format":1,"nodes":[["Regex","process.command_line","(",""]]}'


def bomb(job: int) -> bytes:
    return b"[" * 1_000_000


def talk(job: int) -> bytes:
    raise ValueError("\x1b[2J" + "x" * 100_000)


def vanish(job: int) -> bytes:
    os._exit(0)
