"""What each setting's value must be: a check takes the value and tells what is wrong with it, or None."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sensor import schema
from sensor.errors import UsageError
from sensor.kernel.hooks import HOOKS, kinds
from sensor.safe_yaml import shown
from sensor.watch import compile_pattern

FAMILIES = ("process", "file", "network", "privilege", "shell")

Check = Callable[[Any], str | None]


def between(low: float, high: float) -> Check:
    """A check that a number is in a range, bounds included."""
    return lambda value: None if low <= value <= high else f"must be from {low} to {high}"


def ring(value: int) -> str | None:
    """Of the size of a ring buffer, in KiB."""
    # The kernel takes a power of two, and no less than a page.
    if 4 <= value <= 32 << 10 and value & (value - 1) == 0:
        return None
    return "must be a power of two from 4 to 32768"


def absolute(value: str) -> str | None:
    """Of a path."""
    if not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        return "must be an absolute path without .."
    return None


def listen(value: str) -> str | None:
    """Of the address for metrics."""
    if value == "off":
        return None
    host, _, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535):
        return "must be ADDRESS:PORT, [IPV6]:PORT or off"
    if bare == "localhost":
        return None
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return "must name an IP address or localhost before the port"
    return "needs brackets around the IPv6 address" if address.version == 6 and bare == host else None


def output(value: str) -> str | None:
    """Of where documents go."""
    if value in ("auto", "-", "table", "journald"):
        return None
    fault = absolute(value)
    return fault and "must be auto, -, table, journald or the absolute path of a file"


def watch(values: tuple[str, ...]) -> str | None:
    """Of the patterns of paths whose reading is an event."""
    # 255 bytes is what the request to the supervisor has room for, 256 what the kernel's map has.
    if len(values) > 256:
        return "has more than 256 paths"
    try:
        for value in values:
            compile_pattern(value)
            if len(value.encode()) > 255:
                return f"{shown(value)} is longer than 255 bytes"
    except UsageError as error:
        return f"can't be used: {error}"
    return None


def rule_paths(values: tuple[str, ...]) -> str | None:
    """Of the files and directories of rules."""
    return next((f"{shown(value)} {fault}, or the word default" for value in values
                 if value != "default" and (fault := absolute(value))), None)


def placeholders(values: Mapping[str, tuple[str, ...]]) -> str | None:
    """Of the values that rules leave open."""
    for name, items in values.items():
        if not re.fullmatch(r"\w{1,64}", name):
            return f"has the name {shown(name)}: letters, digits and _ alone make one"
        if not 1 <= len(items) <= 1000:
            return f"of {name} must have from 1 to 1000 values"
    return "has more than 256 names" if len(values) > 256 else None


def pipelines(values: tuple[str, ...]) -> str | None:
    """Of the files of processing pipelines."""
    return next((f"{shown(value)} {fault}" for value in values if (fault := absolute(value))), None)


def public_keys(values: tuple[str, ...]) -> str | None:
    """Of the signers of content releases."""
    for value in values:
        if not re.fullmatch(r"ed25519:[A-Za-z0-9+/]{43}=", value):
            return f"has {shown(value)}, which is no public key: `sensor content keygen` writes them"
    return "names a key twice" if len(set(values)) < len(values) else None


def url(value: str) -> str | None:
    """Of the repository of content releases."""
    if value == "off" or re.fullmatch(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/%-]*)?", value):
        return None
    return "must be off or the URL of a directory, http:// or https://, without a query"


def ring_name(value: str) -> str | None:
    """Of the name of a ring of hosts."""
    return None if re.fullmatch(r"[a-z][a-z0-9-]{0,31}", value) else "must be a word of small letters, digits and -"


def families(values: tuple[str, ...]) -> str | None:
    """Of the families of probes."""
    for value in values:
        if value not in FAMILIES:
            return f"has no family {shown(value)}{_meant(value, FAMILIES)}"
    return None if "process" in values else "must have process: every other event needs the process table"


def hooks(values: Mapping[str, str]) -> str | None:
    """Of the kind of hook an event is taken from."""
    for name, kind in values.items():
        if name not in HOOKS:
            return f"has no event {shown(name)}{_meant(name, HOOKS)}"
        offered = kinds(name)
        if kind == "off":
            if schema.BY_NAME[name].family == "process":
                return f"can't turn {name} off: every other event needs the process table"
        elif kind not in offered:
            return f"of {name} is {shown(kind)}: must be one of {', '.join([*offered, 'off'])}"
    return None


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:64], list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else f" (one of {', '.join(known)})"
