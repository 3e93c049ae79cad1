"""What the sensor declares that it misses: row of the live table -> reason. A row that heals must leave this table."""

from __future__ import annotations

_RING = "datagrams that io_uring sends are not looked at"
_RECEIVED = "no open: it is reported, with its path, for the process that opened the file and passed it on"
_ARGUMENT = "only the system call's argument is known: nothing of io_uring"
_BEFORE = "the kernel decides before it has chosen the port"
_BINDS = ("tcp", "closed", "udp", "mapped", "datagram", "fast open", "mptcp", "udp-lite")
_HOWS = ("inline", "worker", "sqpoll")
_NAMES = ("unlink", "unlink rmdir", "rename", "link", "link symlink", "mkdir")
KNOWN = {
    "dns-query dns write (net)": "a query sent by write() on a connected socket is not looked at",
    **{f"network-connect {how} {call} (uring){kind}": _RING for how in _HOWS for call in ("sendmsg", "send")
       for kind in ("", " [fentry]", " [kprobe]", " [lsm]")},
    **{f"network-bind {how} (net) [{kind}]": _BEFORE for how in _BINDS for kind in ("fentry", "kprobe", "lsm")},
    **{f"file-open use {how} (ways)": _RECEIVED for how in ("passed", "pidfd_getfd")},
    "file-open cut truncate (ways)": "truncate() opens nothing and is not looked at",
    "file-unlink directory-link (files) [syscall]": "symbolic links in the middle of an argument stay unresolved",
    **{f"file-{name} {how} (uring) [syscall]": _ARGUMENT for name in _NAMES for how in _HOWS},
}
_NO_REQUEST = "before 6.0 io_uring's functions and completions name no request: nobody can say what was completed"
KNOWN_BEFORE_6_0 = {f"file-{name} {how} (uring){kind}": _NO_REQUEST for name in ("unlink", "rename") for how in _HOWS
                    for kind in ("", " [fentry]", " [kprobe]", " [lsm]")}


def known(release: str) -> dict[str, str]:
    """What is known to be missed on a kernel, by its `uname -r`."""
    if tuple(map(int, release.split(".")[:2])) >= (6, 0):
        return KNOWN
    return {**KNOWN, **KNOWN_BEFORE_6_0}
