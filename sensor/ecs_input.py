"""ECS documents of other makers, brought into the shape of ours.

Others write keys with dots, nulls, one-item lists, single values where ours are lists, and actions of
their own. What is missing stays absent; what can't be brought into shape is refused.
"""

from __future__ import annotations

from typing import Any

from sensor.schema import BY_NAME, EVENTS
from sensor.shape import SHAPE, Document, Shape

ACTIONS: frozenset[str] = frozenset(event.action for event in EVENTS)

#: (category, type) -> event, for documents whose event.action is not ours. First match wins.
_BY_CATEGORY: tuple[tuple[str, str, str], ...] = (
    ("process", "start", "process_exec"),
    ("process", "end", "process_exit"),
    ("file", "deletion", "file_unlink"),
    ("file", "creation", "file_open"),
    ("file", "change", "file_open"),
    ("file", "access", "file_open"),
    ("network", "protocol", "dns_query"),
    ("network", "connection", "network_connect"),
    ("network", "start", "network_connect"),
    ("driver", "start", "module_load"),
)
class Unfit(ValueError):
    """A document that can't be brought into shape."""


_RENAMES = ("rename", "renamed", "file_rename")


def normalise(document: Document) -> Document | None:
    """A new document in our shape, or None where it is no event that we know.

    Raises:
        Unfit: A value can't be read as its key's type.
    """
    copy: Document = {}
    for key, value in document.items():
        _place(copy, key.split("."), value)
    copy = _shaped(copy, SHAPE)
    event = copy.get("event")
    if event is not None and event.get("action") in ACTIONS:
        return copy
    name = _event_name(copy, event or {})
    if name is None:
        return None
    copy["event"] = {**(event or {}), "action": BY_NAME[name].action}
    if name == "network_connect":
        copy.setdefault("network", {}).setdefault("initiated", True)
    elif name == "network_accept":
        copy.setdefault("network", {}).setdefault("initiated", False)
    return copy


def _place(node: dict[str, Any], keys: list[str], value: Any) -> None:
    *sections, last = keys
    for name in sections:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise Unfit(f"{name} is both a value and a section")
    if isinstance(value, dict):
        section = node.setdefault(last, {})
        if not isinstance(section, dict):
            raise Unfit(f"{last} is both a value and a section")
        for name, item in value.items():
            _place(section, name.split("."), item)
    elif last in node:
        raise Unfit(f"{last} stands there twice")
    else:
        node[last] = value


def _shaped(section: dict[str, Any], shape: Shape) -> dict[str, Any]:
    shaped: dict[str, Any] = {}
    for key, value in section.items():
        if value is None or value in ([], {}):
            continue
        wanted = shape.get(key)
        if isinstance(wanted, dict):
            if not isinstance(value, dict):
                raise Unfit(f"{key} is not a section")
            shaped[key] = _shaped(value, wanted)
        else:
            shaped[key] = value if wanted is None else _valued(key, value, wanted)
    return shaped


def _valued(key: str, value: Any, wanted: frozenset[type]) -> Any:
    if list in wanted:
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, (str, int, float)) for item in items):
            return [str(item) for item in items]
    else:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if type(value) in wanted:
            return value
        if isinstance(value, (int, float)):
            return str(value)
    raise Unfit(f"{key} has a value of the wrong type")


def _event_name(document: Document, event: dict[str, Any]) -> str | None:
    categories, types = event.get("category", []), event.get("type", [])
    name = next((name for category, kind, name in _BY_CATEGORY
                 if category in categories and kind in types), None)
    if name == "file_open" and event.get("action") in _RENAMES:
        return "file_rename"
    if name == "network_connect" and document.get("network", {}).get("direction") in ("ingress", "inbound"):
        return "network_accept"
    return name
