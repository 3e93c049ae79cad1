"""Documents for the tests of outputs, recordings and replay."""

from __future__ import annotations

import copy
from typing import Any

EXEC: dict[str, Any] = {
    "@timestamp": "2026-11-21T10:00:00.123456789Z",
    "event": {"id": "b0-0-1-17", "kind": "event", "category": ["process"], "type": ["start"],
              "action": "process-exec", "dataset": "sensor.process_exec", "sequence": 17},
    "process": {
        "pid": 4711, "executable": "/usr/bin/cat", "name": "cat", "args": ["cat", "/etc/shadow"],
        "command_line": "cat /etc/shadow", "working_directory": "/", "start": "2026-11-21T10:00:00.100000000Z",
        "entity_id": "e1", "executable_mode": "0755", "thread": {"id": 4711},
        "parent": {"pid": 4700, "name": "sh", "executable": "/usr/bin/sh", "command_line": "sh -c id",
                   "entity_id": "e0", "user": {"name": "www-data"}},
        "ancestors": ["/usr/bin/sh", "/usr/sbin/nginx", "/usr/lib/systemd/systemd"],
    },
    "user": {"id": "33", "name": "www-data", "effective": {"id": 33}},
    "sensor": {"cpu": 1, "cgroup": {"id": 12}, "flags": ["script"]},
}

CONNECT: dict[str, Any] = {
    "@timestamp": "2026-11-21T10:00:01.000000000Z",
    "event": {"id": "b0-0-1-18", "kind": "event", "category": ["network"], "type": ["start"],
              "action": "network-connect", "dataset": "sensor.network_connect", "sequence": 18, "result": 0},
    "process": {"pid": 4711, "executable": "/usr/bin/bash", "name": "bash"},
    "source": {"ip": "127.0.0.1", "port": 40000}, "destination": {"ip": "::1", "port": 4444},
    "network": {"transport": "tcp", "type": "ipv6", "direction": "egress", "initiated": True},
}

RULE = {"id": "11111111-2222-3333-4444-555555555555", "name": "Password hashes read", "level": "high",
        "description": "A program that has no business with them read the password hashes."}


def event(number: int = 17, **parts: Any) -> dict[str, Any]:
    """A fresh process_exec with an id of its own; *parts* replace top-level sections."""
    document = copy.deepcopy(EXEC)
    document["event"].update(id=f"b0-0-1-{number}", sequence=number)
    document.update(parts)
    return document


def alert(number: int = 17, level: str = "high", **parts: Any) -> dict[str, Any]:
    """An alert of :func:`event`."""
    document = event(number, **parts)
    document["event"]["kind"] = "alert"
    document["rule"] = {**RULE, "level": level}
    document["threat"] = {"technique": {"id": ["T1003.008"]}}
    document["tags"] = ["attack.t1003.008"]
    return document
