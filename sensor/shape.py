"""What a document may look like: the type of each key, taken from the event table.

Recordings come from elsewhere and may be broken on purpose. A number may come as text (ECS keeps ids
as keywords), and keys that are in no row are nobody's business.
"""

from __future__ import annotations

from typing import Any

from sensor.schema import DERIVED, EVENTS, HEADER, Kind

Document = dict[str, Any]
Shape = dict[str, Any]  # key -> Shape of a section, or the types that a value may have

# The first type is the one that we write ourselves; the others are taken from elsewhere too.
_TEXT: tuple[type, ...] = (str,)
_NUMBER: tuple[type, ...] = (int, str, float, bool)
_OCTAL: tuple[type, ...] = (str, int)
_BOOLEAN: tuple[type, ...] = (bool, str, int)
_LIST: tuple[type, ...] = (list,)

#: Keys of schema.DERIVED that hold lists of texts, and those that hold numbers or booleans.
LISTS = ("event.category", "event.type", "process.ancestors", "process.ancestor_names", "sensor.flags",
         "sensor.escaped", "tags", "threat.technique.id")
BOOLEANS = ("network.initiated",)
#: What ``process.parent.*`` and ``process.session_leader.*`` stand for.
_RELATIVE = ("entity_id", "pid", "name", "executable", "script", "command_line", "start", "user.name", "user.id")
RELATIVES = ("process.parent", "process.session_leader")
_RULE = ("rule.id", "rule.name", "rule.level", "rule.description")


def key_types() -> dict[str, tuple[type, ...]]:
    """Dotted key -> types that its value may have, ours first, for every key that a document can hold."""
    types: dict[str, tuple[type, ...]] = {}
    for key, _, _ in DERIVED:
        types[key] = _TEXT
    for event in EVENTS:
        for field in (*HEADER, *event.fields):
            if field.ecs:
                types[field.ecs] = _types_of(field.kind, field.unit)
    for section in RELATIVES:
        types.pop(f"{section}.*", None)
        for name in _RELATIVE:
            types[f"{section}.{name}"] = _NUMBER if name == "pid" else _TEXT
    types.update(dict.fromkeys(_RULE, _TEXT))
    types.update(dict.fromkeys(BOOLEANS, _BOOLEAN))
    types.update(dict.fromkeys(LISTS, _LIST))
    return types


def _types_of(kind: Kind, unit: str) -> tuple[type, ...]:
    if kind is Kind.LIST:
        return _LIST
    if kind.is_text or kind is Kind.ADDRESS:
        return _TEXT
    return _OCTAL if unit == "octal" else _NUMBER


def _shape() -> Shape:
    root: Shape = {}
    for key, types in key_types().items():
        *sections, last = key.split(".")
        node = root
        for name in sections:
            node = node.setdefault(name, {})
        node[last] = frozenset(types)
    return root


SHAPE: Shape = _shape()

#: Levels of nesting; ours has six. The encoder stops at 254, Python's stack at 1,000.
DEPTH_LIMIT = 64


def depth(value: Any) -> int:
    """Levels of nesting of a JSON value, counted no further than just over the limit."""
    levels, layer = 0, [value] if isinstance(value, (dict, list)) else []
    while layer and levels <= DEPTH_LIMIT:
        levels += 1
        layer = [item for node in layer for item in (node.values() if isinstance(node, dict) else node)
                 if isinstance(item, (dict, list))]
    return levels


#: First component of a key -> the type of what stands there.
_TOP: dict[str, type] = {
    name: dict if isinstance(below, dict) else list if list in below else str for name, below in SHAPE.items()}


def sound(document: Document) -> bool:
    """Whether *document* has only known parts, each of its type: sections are objects.

    The hot path of replay, so it looks no deeper. Rules and outputs take any value of a key.
    """
    wanted = _TOP.get
    for key, value in document.items():  # noqa: SIM110  all() with a generator takes twice as long
        if type(value) is not wanted(key):
            return False
    return True


def fits(document: Document) -> bool:
    """The same for a document that has parts of its own, which are nobody's business."""
    return all(type(value) is _TOP[key] for key, value in document.items() if key in _TOP)
