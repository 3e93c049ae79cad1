"""What an output has done and failed to do. Read by the metrics while it works."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

#: Why a document was not written; a closed set, so that each is a series from the start.
REASONS = ("no_space", "closed", "stalled", "too_large", "encode", "io")

_BY_ERRNO = {
    errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EFBIG: "no_space",
    errno.EPIPE: "closed", errno.EBADF: "closed", errno.ECONNRESET: "closed", errno.ENOTCONN: "closed",
    errno.ECONNREFUSED: "closed", errno.ENOENT: "closed",
    errno.EAGAIN: "stalled", errno.ENOBUFS: "stalled", errno.EMSGSIZE: "too_large",
}


@dataclass(slots=True)
class Counts:
    """Totals since the output was opened. ``last_success`` is seconds since the epoch, 0 for never."""

    events: int = 0
    bytes: int = 0
    dropped: int = 0
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    last_success: float = 0.0

    def drop(self, reason: str, documents: int = 1) -> None:
        """Count one failure that cost *documents* documents."""
        self.errors[reason] += 1
        self.dropped += documents


def reason_of(error: OSError) -> str:
    """The reason that an operating system error counts under."""
    return _BY_ERRNO.get(error.errno or 0, "io")
