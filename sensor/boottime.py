"""From the kernel's boot clock to the wall clock, as text.

Records carry CLOCK_BOOTTIME because it never steps and counts suspended time. Nothing here reads
a clock: whoever may do so passes the offset in, and again after the wall clock was set.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# datetime ends with the year 9999. A garbage time is shown as the nearest time that has a text.
_LAST_SECOND = 253_402_300_799


def _second_text(second: int) -> str:
    """RFC 3339 text of a second since 1970, without fraction and zone."""
    moment = _EPOCH + timedelta(seconds=min(max(second, 0), _LAST_SECOND))
    return moment.strftime("%Y-%m-%dT%H:%M:%S") if moment.year >= 1000 else "1970-01-01T00:00:00"


class BootClock:
    """Turns ns CLOCK_BOOTTIME into RFC 3339 text with nanoseconds, in UTC.

    ``offset_ns`` is CLOCK_REALTIME - CLOCK_BOOTTIME in ns; it may be set again at any time.
    """

    __slots__ = ("_from", "_second", "_text", "offset_ns")

    def __init__(self, offset_ns: int = 0) -> None:
        self.offset_ns = self._from = offset_ns
        self._second = -1
        self._text = ""

    def set(self, offset_ns: int) -> int:
        """Go on with another offset.

        Returns:
            How far the wall clock was set since this last gave a step, in ns; 0 for less than a second, which is what
            keeping time does.
        """
        self.offset_ns = offset_ns
        step = offset_ns - self._from
        if abs(step) < NS:
            return 0
        self._from = offset_ns
        return step

    def text(self, boot_ns: int) -> str:
        """RFC 3339 text, e.g. ``2026-11-21T10:00:00.123456789Z``, of *boot_ns*."""
        second, fraction = divmod(boot_ns + self.offset_ns, NS)
        if second != self._second:  # events come in bursts: most fall into the second of the last one
            self._second, self._text = second, _second_text(second)
        return f"{self._text}.{fraction:09d}Z"
