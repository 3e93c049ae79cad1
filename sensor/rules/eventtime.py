"""When an event happened, from its ``@timestamp``: ns since 1970. No clock is read."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import lru_cache

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_SECOND = 1_000_000_000


def time_ns(value: object) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 text, or None for anything else and for times before 1970."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    seconds = _seconds(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    return None if seconds is None or seconds < 0 else seconds * _SECOND + int((fraction or "0").ljust(9, "0"))


def text_of_ns(moment: int) -> str:
    """RFC 3339 text with nanoseconds, in UTC."""
    second, fraction = divmod(moment, _SECOND)
    return f"{datetime.fromtimestamp(second, timezone.utc):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


@lru_cache(1024)  # events come in bursts
def _seconds(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return None
