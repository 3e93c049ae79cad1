"""A document for people: its values by dotted key, and one line that says what happened."""

from __future__ import annotations

from typing import Any


def value_at(document: dict[str, Any], key: str) -> Any:
    """The value at a dotted key, or None where it or a section above it is absent."""
    node: Any = document
    for name in key.split("."):
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node


def text_at(document: dict[str, Any], *keys: str) -> str:
    """The first of *keys* that has a value, as text; empty if none has."""
    for key in keys:
        value = value_at(document, key)
        if value is not None and value != "":
            return str(value)
    return ""


def process_name(document: dict[str, Any], section: str = "process") -> str:
    """``name[pid]`` of the acting process, or of another section such as ``process.parent``."""
    name = text_at(document, f"{section}.name") or basename(text_at(document, f"{section}.executable"))
    pid = text_at(document, f"{section}.pid")
    return f"{name or '?'}[{pid}]" if pid else name


def user_name(document: dict[str, Any]) -> str:
    """The user's name, or the number where it has none."""
    return text_at(document, "user.name", "user.id", "user.effective.id")


def parent_chain(document: dict[str, Any]) -> list[str]:
    """Names from the parent upwards; the parent with its pid."""
    chain = [name] if (name := process_name(document, "process.parent")) else []
    ancestors = value_at(document, "process.ancestors")
    if isinstance(ancestors, list):
        # The first ancestor is the parent itself, where its executable is known.
        known = ancestors[:1] == [value_at(document, "process.parent.executable")]
        chain += [basename(str(path)) for path in ancestors[1 if known else 0:]]
    return chain


def subject(document: dict[str, Any]) -> str:
    """What the event was about: the command, the file, the other end."""
    action = text_at(document, "event.action")
    if action.startswith("process-") or not action:
        return text_at(document, "process.command_line", "process.executable", "file.path")
    if action.startswith("file-"):
        source = text_at(document, "file.Ext.original.path", "file.target_path")
        path = text_at(document, "file.path")
        return f"{source} -> {path}" if source else path
    if action.startswith("dns-"):
        question = text_at(document, "dns.question.name"), text_at(document, "dns.question.type")
        return " ".join(filter(None, question))
    if action.startswith("network-"):
        return _endpoints(document)
    return text_at(document, "message", "process.io.text", "driver.name", "bpf.program.name", "file.path",
                   "process.command_line", "process.executable")


def _endpoints(document: dict[str, Any]) -> str:
    transport = text_at(document, "network.transport")
    ends = [end for side in ("source", "destination") if (end := endpoint(document, side))]
    return " ".join(filter(None, (transport, " -> ".join(ends))))


def endpoint(document: dict[str, Any], side: str) -> str:
    """``ip:port`` of ``source`` or ``destination``; IPv6 in brackets."""
    ip, port = text_at(document, f"{side}.ip"), text_at(document, f"{side}.port")
    if not ip:
        return ""
    host = f"[{ip}]" if ":" in ip else ip
    return f"{host}:{port}" if port else host


def describe(document: dict[str, Any]) -> str:
    """One line: the rule (or the action), who, and what."""
    title = text_at(document, "rule.name", "event.action") or "event"
    who = process_name(document)
    user = user_name(document)
    by = f" by {who}" if who else ""
    return f"{title}{by}{f' ({user})' if user else ''}: {subject(document)}".rstrip(": ")


def basename(path: str) -> str:
    """Last component of *path*."""
    return path.rsplit("/", 1)[-1]
