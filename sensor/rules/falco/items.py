"""Items of Falco's rule files: lists, macros and rules, defined, appended to and overridden in their order.

A later definition replaces an earlier one in its place; ``append: true`` and ``override`` change
parts of it. Macros see what was defined before them (``place``), or before they were last
changed (``sight``); rules see everything. An item that is broken is refused, the others stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sensor.rules.falco.model import FalcoUnsupported
from sensor.rules.falco.syntax import LISTS, OPERATORS, BadCondition, Value, unquoted
from sensor.rules.model import Refused, Unsupported
from sensor.rules.yamlsafe import Items, Map

#: Version of Falco's engine whose language this is.
ENGINE = (0, 57, 0)
MAX_ITEMS = 20_000  # items of one load, and values that one item names

#: What makes a YAML list a file of Falco's.
KINDS = ("rule", "macro", "list", "required_engine_version", "required_plugin_versions")
_PRIORITIES = {
    "emergency": "critical", "alert": "critical", "critical": "critical", "error": "high", "warning": "medium",
    "notice": "low", "informational": "informational", "info": "informational", "debug": "informational",
}
_APPENDED = ("condition", "output", "desc", "tags", "exceptions")
_REPLACED = (*_APPENDED, "priority", "enabled", "warn_evttypes", "skip-if-unknown-filter")
_RULE_KEYS = frozenset((*_REPLACED, "rule", "source", "append", "override", "capture", "capture_duration"))


class BadItem(ValueError):
    """An item that can't be taken; ``line`` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__(reason)


@dataclass(slots=True)
class ListItem:
    """A list of values, some of which may be names of lists."""

    name: str
    values: list[Value]
    place: int = 0
    sight: int = 0


@dataclass(slots=True)
class MacroItem:
    """A named condition; appending joins texts, as Falco does."""

    name: str
    condition: str
    place: int = 0
    sight: int = 0


@dataclass(frozen=True, slots=True)
class ExceptionItem:
    """What a rule leaves out: rows of values, a row for each field and operator. One field alone has one row."""

    name: str
    fields: tuple[str, ...]
    operators: tuple[str, ...]
    single: bool
    rows: tuple[tuple[tuple[Value, ...], ...], ...]


@dataclass(slots=True)
class RuleItem:
    """A rule as all items together have made it."""

    name: str
    path: str
    line: int
    condition: str
    output: str = ""
    description: str = ""
    level: str = "informational"
    tags: tuple[str, ...] = ()
    exceptions: tuple[ExceptionItem, ...] = ()
    enabled: bool = True
    source: str = "syscall"
    skip_unknown: bool = False


@dataclass(slots=True)
class Collected:
    """All items of a load. ``broken`` are names whose item was refused: who uses them can't be trusted."""

    lists: dict[str, ListItem] = field(default_factory=dict)
    macros: dict[str, MacroItem] = field(default_factory=dict)
    rules: dict[str, RuleItem] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    unsupported: list[Unsupported] = field(default_factory=list)
    broken: set[tuple[str, str]] = field(default_factory=set)
    count: int = 0


def is_falco(document: object) -> bool:
    """Whether a YAML document is a list of Falco's items."""
    return isinstance(document, Items) and any(
        isinstance(item, Map) and any(kind in item for kind in KINDS) for item in document)


def collect(document: Items, path: str, into: Collected) -> None:
    """Take the items of one file. What is wrong with them is noted in ``into``."""
    for item, line in zip(document, document.lines, strict=True):
        kind = next((kind for kind in KINDS if isinstance(item, Map) and kind in item), "")
        name = item[kind] if kind in ("rule", "macro", "list") and isinstance(item[kind], str) else ""
        try:
            into.count += 1
            if into.count > MAX_ITEMS:
                raise BadItem(line, f"more than {MAX_ITEMS} items")
            if not kind:
                raise BadItem(line, f"an item is a mapping with one of {', '.join(KINDS)}")
            if kind == "required_engine_version" and not _understood(item[kind], item.lines[kind]):
                into.refused.append(Refused(path, line, "", f"needs Falco's engine {item[kind]}; "
                                            f"{'.'.join(map(str, ENGINE))} is what is understood here"))
                return
            if kind == "required_plugin_versions":
                _plugins(item, path, into)
            elif name or kind not in ("rule", "macro", "list"):
                _TAKE.get(kind, _nothing)(item, name, path, into)
            else:
                raise BadItem(line, f"{kind}: a name expected")
        except (BadItem, BadCondition) as error:
            into.broken.add((kind, name))
            into.refused.append(Refused(path, getattr(error, "line", line), name, str(error)))


def _nothing(item: Map, name: str, path: str, into: Collected) -> None:
    """An item that asks for nothing."""


def _understood(version: object, line: int) -> bool:
    text = str(version)
    parts = text.split(".")
    if len(text) > 32 or not all(part.isascii() and part.isdecimal() for part in parts) or len(parts) > 3:
        raise BadItem(line, f"required_engine_version: {text[:40]!r} is no version")
    numbers = tuple(map(int, parts))
    # Once it was a single number, which is the second of three now.
    wanted = (0, numbers[0], 0) if len(numbers) == 1 else (*numbers, 0)[:3]
    return wanted <= ENGINE


def _plugins(item: Map, path: str, into: Collected) -> None:
    key = "required_plugin_versions"
    plugins = item[key]
    if not isinstance(plugins, Items) or not all(isinstance(each, Map) and "name" in each for each in plugins):
        raise BadItem(item.lines[key], f"{key}: a list of name and version expected")
    for each, line in zip(plugins, plugins.lines, strict=True):
        if each["name"] != "container":  # whose fields come from our own events
            into.unsupported.append(FalcoUnsupported(path, key, "plugin", f"no plugin is loaded, nor {each['name']}: "
                                                "rules that need its fields are named", line))


def _take_list(item: Map, name: str, path: str, into: Collected) -> None:
    _known(item, {"list", "items", "append", "override"})
    items = item.get("items")
    if not isinstance(items, Items):
        raise BadItem(item.line, "items: a list expected")
    values = [unquoted(_scalar(each, line)) for each, line in zip(items, items.lines, strict=True)]
    before = into.lists.get(name)
    if _mode(item, ("items",), ("items",)).get("items") == "append":
        if before is None:
            raise BadItem(item.line, f"there is no list {name} yet that could be appended to")
        values = before.values + values
    if len(values) > MAX_ITEMS:
        raise BadItem(item.line, f"more than {MAX_ITEMS} items")
    place = before.place if before is not None else into.count
    into.lists[name] = ListItem(name, values, place, into.count)
    into.broken.discard(("list", name))


def _take_macro(item: Map, name: str, path: str, into: Collected) -> None:
    _known(item, {"macro", "condition", "append", "override"})
    condition = _text(item, "condition")
    before = into.macros.get(name)
    if _mode(item, ("condition",), ("condition",)).get("condition") == "append":
        if before is None:
            raise BadItem(item.line, f"there is no macro {name} yet that could be appended to")
        condition = f"{before.condition} {condition}"
    place = before.place if before is not None else into.count
    into.macros[name] = MacroItem(name, condition, place, into.count)
    into.broken.discard(("macro", name))


def _take_rule(item: Map, name: str, path: str, into: Collected) -> None:
    _known(item, _RULE_KEYS)
    before = into.rules.get(name)
    modes = _mode(item, _APPENDED, _REPLACED)
    if modes:
        if before is None:
            raise BadItem(item.line, f"there is no rule {name} yet that could be changed")
        for key, mode in modes.items():
            if key in item:
                _change(before, item, key, append=mode == "append")
        return
    if set(item) == {"rule", "enabled"} and before is not None:
        before.enabled = _boolean(item, "enabled")
        return
    # The last definition is where people look for the rule.
    made = RuleItem(name, path, item.line, _text(item, "condition"))
    for key in ("output", "desc", "priority"):
        if key not in item:
            raise BadItem(item.line, f"a rule needs {key}")
    source = item.get("source", "syscall")
    made.source = source if isinstance(source, str) else str(source)
    if before is not None and before.source != made.source:
        raise BadItem(item.line, f"the rule had source {before.source} before")
    for key in _REPLACED:
        if key in item:
            _change(made, item, key, append=False)
    into.rules[name] = made
    into.broken.discard(("rule", name))


_TAKE: dict[str, Callable[[Map, str, str, Collected], None]] = {
    "list": _take_list, "macro": _take_macro, "rule": _take_rule}


def _mode(item: Map, appended: tuple[str, ...], replaced: tuple[str, ...]) -> dict[str, str]:
    """Key -> append or replace, for each key that the item changes of an earlier one."""
    if "override" not in item:
        return dict.fromkeys(appended, "append") if "append" in item and _boolean(item, "append") else {}
    override = item["override"]
    line = item.lines["override"]
    if "append" in item or not isinstance(override, Map):
        raise BadItem(line, "override: a mapping expected, and no append beside it")
    for key, mode in override.items():
        if mode not in ("append", "replace") or key not in (appended if mode == "append" else replaced):
            raise BadItem(override.lines[key], f"override: {key} can't be {mode!r}")
        if key not in item:
            raise BadItem(override.lines[key], f"override: there is no {key} beside it")
    extra = set(item) - set(override) - {"override", "rule", "macro", "list"}
    if extra:
        raise BadItem(line, f"override doesn't say what to do with {', '.join(sorted(extra))}")
    return dict(override)


def _change(rule: RuleItem, item: Map, key: str, *, append: bool) -> None:
    """Set one key of a rule, or add to it."""
    match key:
        case "condition":
            text = _text(item, key)
            rule.condition = f"{rule.condition} {text}" if append else text
        case "output":
            rule.output = f"{rule.output} {_text(item, key)}" if append else _text(item, key)
        case "desc":
            rule.description = f"{rule.description} {_text(item, key)}" if append else _text(item, key)
        case "tags":
            tags = _texts(item, key)
            rule.tags = tuple(dict.fromkeys((*rule.tags, *tags))) if append else tags
        case "exceptions":
            rule.exceptions = _exceptions(item, rule.exceptions if append else (), append=append)
        case "priority":
            level = _PRIORITIES.get(str(item[key]).lower())
            if level is None:
                raise BadItem(item.lines[key], f"priority: {str(item[key])[:40]!r} is none of Falco's")
            rule.level = level
        case "enabled":
            rule.enabled = _boolean(item, key)
        case "skip-if-unknown-filter":
            rule.skip_unknown = _boolean(item, key)
        case "warn_evttypes":
            _boolean(item, key)  # asks for silence about a warning that is not given here


def _exceptions(item: Map, before: tuple[ExceptionItem, ...], *, append: bool) -> tuple[ExceptionItem, ...]:
    items = item["exceptions"]
    if not isinstance(items, Items):
        raise BadItem(item.lines["exceptions"], "exceptions: a list expected")
    found = {each.name: each for each in before}
    for each, line in zip(items, items.lines, strict=True):
        if not isinstance(each, Map) or not isinstance(each.get("name"), str):
            raise BadItem(line, "an exception is a mapping with a name")
        _known(each, {"name", "fields", "comps", "values"})
        name = each["name"]
        if append and name in found:
            if "fields" in each or "comps" in each:
                raise BadItem(line, f"exception {name}: only values can be appended to one that is there")
            known = found[name]
            found[name] = replace(known, rows=known.rows + _rows(each, known))
        elif not append and name in found:
            raise BadItem(line, f"exception {name} stands here twice")
        else:
            shape = _shape(each, line)
            found[name] = replace(shape, rows=_rows(each, shape))
    return tuple(found.values())


def _shape(item: Map, line: int) -> ExceptionItem:
    """Fields and operators of an exception, with Falco's defaults: ``in`` for one field, ``=`` for each of several."""
    name, names = item["name"], item.get("fields")
    operators = item.get("comps")
    if isinstance(names, str):
        operator = "in" if operators is None else operators
        if operator not in LISTS:
            raise BadItem(line, f"exception {name}: one field is compared by one of {', '.join(LISTS)}")
        return ExceptionItem(name, (names,), (operator,), single=True, rows=())
    if not isinstance(names, Items) or not names:
        raise BadItem(line, f"exception {name}: fields expected")
    fields = _texts(item, "fields")
    operators = ("=",) * len(fields) if operators is None else _texts(item, "comps")
    if len(operators) != len(fields):
        raise BadItem(line, f"exception {name}: as many comps as fields expected")
    for operator in operators:
        if operator not in OPERATORS or operator == "exists":
            raise BadItem(line, f"exception {name}: {operator[:40]!r} is no comparison")
    return ExceptionItem(name, fields, operators, single=False, rows=())


def _rows(item: Map, shape: ExceptionItem) -> tuple[tuple[tuple[Value, ...], ...], ...]:
    values = item.get("values")
    if values is None:
        return ()
    if not isinstance(values, Items):
        raise BadItem(item.lines["values"], "values: a list expected")
    if shape.single:
        row = tuple(unquoted(_scalar(each, line)) for each, line in zip(values, values.lines, strict=True))
        return ((row,),) if row else ()
    rows = []
    for each, line in zip(values, values.lines, strict=True):
        if not isinstance(each, Items) or len(each) != len(shape.fields):
            raise BadItem(line, f"values: rows of {len(shape.fields)} expected, one for each field")
        rows.append(tuple(_cell(cell, at, operator) for cell, at, operator in
                          zip(each, each.lines, shape.operators, strict=True)))
    return tuple(rows)


def _cell(cell: object, line: int, operator: str) -> tuple[Value, ...]:
    if isinstance(cell, Items):
        if operator not in LISTS:
            raise BadItem(line, f"values: {operator} compares with one value, not with a list")
        return tuple(unquoted(_scalar(each, at)) for each, at in zip(cell, cell.lines, strict=True))
    text = _scalar(cell, line)
    if operator in LISTS and text[:1] == "(" and text[-1:] == ")":  # a list written as text
        return tuple(unquoted(part.strip()) for part in text[1:-1].split(",") if part.strip())
    return (unquoted(text),)


def _known(item: Map, keys: frozenset[str] | set[str]) -> None:
    for key in item:
        if key not in keys:
            raise BadItem(item.lines[key], f"unknown key {key!r}")


def _scalar(value: Any, line: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise BadItem(line, "a text or number expected")


def _text(item: Map, key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise BadItem(item.lines.get(key, item.line), f"{key}: text expected")
    return value.strip()


def _texts(item: Map, key: str) -> tuple[str, ...]:
    value = item[key]
    if not isinstance(value, Items):
        raise BadItem(item.lines[key], f"{key}: a list expected")
    return tuple(_scalar(each, line) for each, line in zip(value, value.lines, strict=True))


def _boolean(item: Map, key: str) -> bool:
    value = item[key]
    if not isinstance(value, bool):
        raise BadItem(item.lines[key], f"{key}: true or false expected")
    return value
