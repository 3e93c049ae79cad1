"""Lines of the kernel's log, from the forms in which it is kept. Every byte is hostile.

Messages of user space (written to /dev/kmsg by whoever may) are left out: their facility is not the kernel's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from sensor.crashes.model import Line

TEXT_BYTES = 512 << 10  # of one dump; the end of it counts
LINE_CHARACTERS = 1024  # LOG_LINE_MAX of the kernel
_PREFIX = re.compile(r"(?:<(\d{1,4})>)?(?:\[ {0,8}(\d{1,9})\.(\d{6})\])?(?:\[ {0,8}[TC]\d{1,9}\])? ?")


def _clean(text: str) -> str:
    return text[:LINE_CHARACTERS].rstrip()


def of_dump(data: bytes) -> Iterator[Line]:
    """Lines of a dump: pstore, vmcore-dmesg.txt, or what dmesg prints."""
    for raw in data[-TEXT_BYTES:].decode("utf-8", "replace").split("\n"):
        match = _PREFIX.match(raw)
        assert match is not None  # it matches the empty text
        if match[1] and int(match[1]) >> 3:  # syslog(3): the facility is above the three bits of the level
            continue
        at_us = int(match[2]) * 1_000_000 + int(match[3]) if match[2] else None
        yield Line(_clean(raw[match.end():match.end() + LINE_CHARACTERS]), at_us)


def of_kmsg(data: bytes) -> Iterator[Line]:
    """Records of /dev/kmsg: "level,number,microseconds,flags;text", then lines of properties that begin with a space.

    A newline within a message is escaped there: a record is one line.
    """
    for raw in data.decode("utf-8", "replace").split("\n"):
        head, semicolon, text = raw.partition(";")
        words = head.split(",", 4)
        if raw.startswith(" ") or not semicolon or len(words) < 4 or not (_number(words[0]) and _number(words[2])):
            continue
        if int(words[0]) >> 3 == 0:
            yield Line(_clean(text), int(words[2]))


def of_journal(data: bytes) -> Iterator[Line]:
    """Entries of `journalctl -k -o json`. One that is no entry is left out."""
    for raw in data.split(b"\n"):
        if not raw or len(raw) > 64 << 10:
            continue
        try:
            entry = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict) or entry.get("_TRANSPORT", "kernel") != "kernel":
            continue
        if str(entry.get("SYSLOG_FACILITY", "0")) != "0":
            continue
        at = str(entry.get("_SOURCE_MONOTONIC_TIMESTAMP", ""))
        yield Line(_clean(_message(entry.get("MESSAGE"))), int(at) if _number(at) else None)


def _message(value: object) -> str:
    if isinstance(value, list):  # bytes, where they are no text
        return bytes(item for item in value if isinstance(item, int) and 0 <= item < 256).decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _number(text: str) -> bool:
    return 0 < len(text) <= 18 and text.isascii() and text.isdigit()
