"""What the sensor declares that it misses: row of the live table -> reason. A row that heals must leave this table."""

from __future__ import annotations

_RING = "of io_uring, only opens, connections and accepts are followed"
_DIRECT = "a file opened into the ring's own table has no descriptor that a probe could follow"
_RECEIVED = "no open: it is reported, with its path, for the process that opened the file and passed it on"
_HOWS = ("inline", "worker", "sqpoll")
KNOWN = {
    "file-unlink directory-link (files) [no kprobes]": "without kprobes, symbolic links in the middle of an "
                                                       "argument stay unresolved",
    "dns-query dns write (net)": "a query sent by write() on a connected socket is not looked at",
    **{f"file-{op} {how} (uring)": _RING for how in _HOWS
       for op in ("rename", "unlink", "link", "link symlink", "mkdir", "unlink rmdir")},
    **{f"network-connect {how} {call} (uring)": _RING for how in _HOWS for call in ("sendmsg", "send")},
    **{f"file-open {how} direct (uring)": _DIRECT for how in _HOWS},
    **{f"file-open use {how} (ways)": _RECEIVED for how in ("passed", "pidfd_getfd")},
    "file-open cut truncate (ways)": "truncate() opens nothing and is not looked at",
    "file-open read overlay lower (ways)": "another file to the kernel: its inode is the overlay's",
}
_NO_REQUEST = "before 5.18 the tracepoint io_uring_complete has no request: nobody can say what was completed"
KNOWN_BEFORE_5_18 = {f"{what} (uring)": _NO_REQUEST for how in _HOWS for what in (
    f"file-open {how}", f"file-open {how} existing", f"file-open read {how}", f"network-connect {how}")}


def known(release: str) -> dict[str, str]:
    """What is known to be missed on a kernel, by its `uname -r`."""
    old = tuple(map(int, release.split(".")[:2])) < (5, 18)
    return {**KNOWN, **(KNOWN_BEFORE_5_18 if old else {})}
