"""Values of documents that are made from fields, not copied: addresses, outcomes, flags, file parts."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from sensor import dns, paths
from sensor.schema import Flag

_AF_INET, _AF_INET6 = 2, 10
_EINPROGRESS = 115
_V4_MAPPED = bytes(10) + b"\xff\xff"

TRANSPORTS = {6: "tcp", 17: "udp", 136: "udp-lite"}

#: Events with a side that began. bind and listen have none yet.
DIRECTIONS = {"network_connect": "egress", "network_accept": "ingress", "dns_query": "egress"}

# There are as many combinations as records that lie can hold; honest ones need a few dozen.
_FLAGS_MAX = 1024


class FlagNames:
    """Bits of a record as names, remembered: few combinations occur."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, list[str]] = {0: []}

    def names(self, flags: int) -> list[str]:
        """Lower-case names of the bits set, in order of the bits. Shared: don't change it."""
        known = self._known.get(flags)
        if known is None:
            if len(self._known) >= _FLAGS_MAX:
                self._known = {0: []}
            known = [(flag.name or "").lower() for flag in Flag if flags & flag]
            self._known[flags] = known
        return known


# As plain numbers: an IntFlag's operators cost more than the rest of a file event.
_CREATED, _WRITING = int(Flag.CREATED), int(Flag.WRITE | Flag.TRUNC)


def file_open_type(flags: int) -> str:
    """ECS event.type of a file_open, by the most that it did."""
    if flags & _CREATED:
        return "creation"
    return "change" if flags & _WRITING else "access"


def outcome(result: int) -> str:
    """ECS event.outcome of what a call returned."""
    return "success" if result >= 0 else "failure"


def connect_outcome(result: int) -> str:
    """The same for connect(): a non-blocking one has only begun, and nobody knows yet."""
    return "unknown" if result == -_EINPROGRESS else outcome(result)


def file_parts(path: str) -> tuple[str, str, str]:
    """(directory, name, extension), remembered: the same files are opened again and again."""
    return _file_parts(path)


_file_parts = lru_cache(4096)(paths.split)


@lru_cache(8192)
def address(family: int, raw: bytes) -> str:
    """An address as text, or nothing for another family. IPv4 inside IPv6 is shown as IPv4.

    Source: RFC 5952 for IPv6; the layout is the event table's ADDRESS.
    """
    if family == _AF_INET:
        return ".".join(map(str, raw[:4]))
    if family != _AF_INET6:
        return ""
    if raw[:12] == _V4_MAPPED:
        return ".".join(map(str, raw[12:]))
    return ipaddress.IPv6Address(raw).compressed


def endpoint(family: int, raw: bytes, port: int) -> dict[str, Any]:
    """One side of a connection, without what the socket does not have yet: no port is 0, and then no
    address is all zeros (with a port, that is the address of every interface).
    """
    text = address(family, raw) if port or any(raw) else ""
    if not port:
        return {"ip": text} if text else {}
    return {"ip": text, "port": port} if text else {"port": port}


def network_type(family: int, raw: bytes) -> str:
    """ipv4 or ipv6 by what goes over the wire: IPv4 also for a mapped address on an IPv6 socket."""
    if family == _AF_INET or (family == _AF_INET6 and raw[:12] == _V4_MAPPED):
        return "ipv4"
    return "ipv6" if family == _AF_INET6 else ""


def question(message: str, errors: dict[str, int]) -> tuple[str, str]:
    """(name, type) asked for in a DNS message; both empty, and counted, where it is none."""
    found = dns.question(message.encode("utf-8", "surrogateescape"))
    if found is None:
        errors["dns_message"] += 1
        return "", ""
    return found.name, found.type


def link_target(symbolic: int, path: str, base: str, name: str) -> str:
    """What a new link leads to. The text of a symbolic link is kept as it is: it may mean anything."""
    return name if symbolic else paths.target(path, base, name)
