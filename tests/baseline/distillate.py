"""A recording of activities, boiled down to a file small enough for the repository.

Of events that differ in nothing that a rule looks at but numbers and random names, one stays, and of
alerts a few for each rule and program. Times, ids and names of the machine are made anew: the same
recording always gives the same file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import zstandard

from sensor import __version__, schema
from sensor.reading import RECORDING
from tests.baseline.selection import Document, Engine

_START = datetime(2026, 1, 1, tzinfo=timezone.utc)
#: Alerts kept of one rule about one program.
_ALERTS = 5
#: What no rule can ask for, or what differs each time.
_DROPPED = ("process.thread.id", "process.start", "process.parent.start", "sensor.cpu", "sensor.cgroup",
            "event.sequence", "process.namespace.mnt", "process.session_leader.pid", "process.child")
#: What makes two events different for nobody.
_IGNORED = re.compile(r"(^|\.)(pid|pid_in|entity_id|id|inode|device|executable_inode|executable_device|port|bytes|"
                      r"executable_links|@timestamp|args|extension|name|directory|start|sequence)$")
_NUMBER = re.compile(r"[0-9a-f]{6,}|\d+", re.IGNORECASE)
_RANDOM = re.compile(r"(/(?:tmp|var/tmp|dev/shm)/|[./_-])(?=[\w-]*[A-Z0-9])[A-Za-z0-9_]{6,}(?=$|[./ -])")
#: Directories of a path that count, from the root.
_DEEP = re.compile(r"^((?:/[^/]+){3})/.*?(/?\.?[^/.]*(?:\.\w+)?)$")
_CATEGORIES = {schema.BY_ID[number].action for ids in schema.SIGMA_CATEGORIES.values() for number in ids}


def distil(documents: Iterable[Document], engine: Engine) -> Iterator[Document]:
    """The events worth keeping of *documents*, in their order. *engine* says which raise alerts."""
    seen: set[str] = set()
    alerts: Counter[tuple[str, str]] = Counter()
    names = _Names()
    for document in documents:
        raised = [(alert["rule"]["id"], document["process"].get("executable", "")) for alert in engine.feed(document)]
        alerts.update(raised)
        if document["event"]["action"] not in _CATEGORIES:
            continue
        likeness = _likeness(document)
        if likeness in seen and not any(alerts[each] <= _ALERTS for each in raised):
            continue
        seen.add(likeness)
        yield names.anew(document)


def _likeness(document: Document) -> str:
    parts = []
    for key, value in _flat(document, ""):
        if not _IGNORED.search(key):
            parts.append(f"{key}={_plain(key, value)}")
    return "\n".join(sorted(parts))


def _plain(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return 0 if isinstance(value, (int, float)) and key.endswith(("size", "instructions")) else value
    value = _RANDOM.sub(r"\1X", value)
    value = _NUMBER.sub("0", value)
    if key.startswith("file.") or key.endswith("working_directory"):
        return _shortened(value)
    return " ".join(_shortened(word) for word in value.split(" ")[:12]) if key.endswith("command_line") else value


def _shortened(path: str) -> str:
    found = _DEEP.match(path)
    if not found:
        return path
    suffix = re.search(r"\.[A-Za-z]+$", path)
    return f"{found[1]}/*{suffix[0] if suffix else ''}"


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(inner, f"{key}.[]")
    else:
        yield key, value


class _Names:
    """Gives times and ids of one recording new values."""

    def __init__(self) -> None:
        self._entities: dict[str, str] = {}
        self._addresses: dict[str, str] = {}
        self._first: datetime | None = None
        self._count = 0

    def anew(self, document: Document) -> Document:
        """A copy of *document* with them."""
        new: Document = json.loads(orjson.dumps(document))
        for key in _DROPPED:
            _drop(new, key.split("."))
        self._count += 1
        new["event"]["id"] = f"baseline-{self._count}"
        when = datetime.fromisoformat(new["@timestamp"][:26]).replace(tzinfo=timezone.utc)
        self._first = self._first or when
        new["@timestamp"] = (_START + (when - self._first)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for side in (new.get("source", {}), new.get("destination", {})):
            address = ip_address(side.get("ip", "::"))
            if address.is_private and not address.is_loopback and not address.is_unspecified:
                side["ip"] = self._addresses.setdefault(side["ip"], f"10.0.0.{len(self._addresses) % 250 + 1}")
        for process in (new.get("process", {}), new.get("process", {}).get("parent", {}),
                        new.get("process", {}).get("session_leader", {})):
            if "entity_id" in process:
                process["entity_id"] = self._entities.setdefault(process["entity_id"], f"{len(self._entities):016x}")
        return new


def _drop(document: Document, key: list[str]) -> None:
    for name in key[:-1]:
        document = document.get(name, {})
    document.pop(key[-1], None)


def write(documents: Iterable[Document], target: Path) -> int:
    """Write a recording without a host; returns the number of documents."""
    about = {"sensor": {"recording": RECORDING, "abi": schema.ABI, "version": __version__,
                        "host": {"name": "baseline"}}}
    count = 0
    # Fixed parameters: the bytes are the same wherever the library is.
    with target.open("wb") as file, zstandard.ZstdCompressor(level=19).stream_writer(file) as stream:
        stream.write(orjson.dumps(about) + b"\n")
        for document in documents:
            stream.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count
