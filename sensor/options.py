"""What the command line of ``run`` and ``record`` says, checked, for the daemon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sensor.errors import UsageError

METRICS_OFF = "off"
METRICS_DEFAULT = "127.0.0.1:9923"
LOOPBACK = "127.0.0.1"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One start of the daemon. None means: as the settings say.

    ``output`` is a spec of :func:`sensor.outputs.open_output`; ``metrics`` is ``HOST:PORT`` or
    ``off``; ``duration`` is in seconds, and None runs until a signal.
    """

    config: Path | None = None
    rules: tuple[Path, ...] = ()
    duration: float | None = None
    output: str | None = None
    events: Literal["alerts", "all"] | None = None
    metrics: str | None = None
    record: Path | None = None


def parse_duration(text: str) -> float:
    """Seconds of ``30``, ``1.5s``, ``200ms``, ``5m``, ``2h`` or ``1d``.

    Raises:
        UsageError: Anything else, or zero.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= 10 * 365 * 86400:
        raise UsageError(f"{text!r} is no duration: write seconds (30) or 500ms, 30s, 5m, 2h, 1d")
    return seconds


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[IPV6]:PORT`` or ``:PORT`` (loopback). Port 0 takes a free one.

    Raises:
        UsageError: Anything else.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not colon or not 0 <= number <= 65535 or (":" in host and not bracketed):
        raise UsageError(f"{text!r} is no address: write HOST:PORT, [IPV6]:PORT or :PORT")
    return (host[1:-1] if bracketed else host) or LOOPBACK, number
