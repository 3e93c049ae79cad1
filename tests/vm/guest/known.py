"""What the sensor declares that it misses: row of the live table -> reason. A row that heals must leave this table."""

from __future__ import annotations

_RING = "of io_uring, only opens, connections and accepts are followed"
KNOWN = {
    "file-unlink directory-link (files) [no kprobes]": "without kprobes, symbolic links in the middle of an "
                                                       "argument stay unresolved",
    "dns-query dns write (net)": "a query sent by write() on a connected socket is not looked at",
    **{f"file-{op} {how} (uring)": _RING for op in ("rename", "unlink") for how in ("inline", "worker")},
}
_NO_REQUEST = "before 5.18 the tracepoint io_uring_complete has no request: nobody can say what was completed"
KNOWN_BEFORE_5_18 = {f"{what} {how} (uring)": _NO_REQUEST for what in ("file-open", "network-connect")
                     for how in ("inline", "worker")}


def known(release: str) -> dict[str, str]:
    """What is known to be missed on a kernel, by its `uname -r`."""
    old = tuple(map(int, release.split(".")[:2])) < (5, 18)
    return {**KNOWN, **(KNOWN_BEFORE_5_18 if old else {})}
