"""Sigma processing pipelines: field names, values and log sources of other products made ours.

pySigma carries them out. What may stand in one is a list of transformations that only rename, set or
drop: nothing that reads files, runs commands or templates, asks the network, or searches with
expressions that can hang.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sigma.correlations import SigmaCorrelationRule
from sigma.processing.pipeline import ProcessingPipeline
from sigma.rule import SigmaRule

from sensor.errors import ContentError
from sensor.rules.sigma_lines import first_line
from sensor.rules.yamlsafe import Items, Map, YamlError, documents

MAX_TRANSFORMATIONS = 256  # of one pipeline
MAX_PIPELINES = 16
MAX_ENTRIES = 4_096  # names in one mapping

#: Transformation -> the keys that it takes.
TRANSFORMATIONS: Mapping[str, frozenset[str]] = {
    "field_name_mapping": frozenset({"mapping"}),
    "field_name_prefix_mapping": frozenset({"mapping"}),
    "field_name_prefix": frozenset({"prefix"}),
    "field_name_suffix": frozenset({"suffix"}),
    "drop_detection_item": frozenset(),
    "add_condition": frozenset({"conditions", "negated"}),
    "change_logsource": frozenset({"category", "product", "service"}),
    "map_string": frozenset({"mapping"}),
    "set_value": frozenset({"value", "force_type"}),
    "convert_type": frozenset({"target_type"}),
    "case": frozenset({"method"}),
    "rule_failure": frozenset({"message"}),
    "detection_item_failure": frozenset({"message"}),
    "strict_field_mapping_failure": frozenset(),
}
#: Others that pySigma knows -> why they are refused.
_REFUSED = {
    "regex": "expressions run by this transformation can hang",
    "replace_string": "expressions run by this transformation can hang",
    "hashes_fields": "no event of this sensor carries hashes",
    "extract_fields": "expressions run by this transformation can hang",
    "file_placeholders": "a pipeline may not read files: use rules.placeholders",
    "http_placeholders": "a pipeline may not ask the network: use rules.placeholders",
    "command_placeholders": "a pipeline may not run commands: use rules.placeholders",
    "value_placeholders": "placeholders have their values from rules.placeholders",
    "wildcard_placeholders": "placeholders have their values from rules.placeholders",
    "query_expression_placeholders": "placeholders have their values from rules.placeholders",
    "nest": "pipelines within pipelines are not read: write the transformations one after the other",
    "field_name_transform": "it needs a function in Python",
    "add_field": "the list of output fields of a rule has no meaning here",
    "remove_field": "the list of output fields of a rule has no meaning here",
    "set_field": "the list of output fields of a rule has no meaning here",
    "set_state": "the state of a pipeline serves query languages",
    "set_custom_attribute": "custom attributes serve query languages",
}
_CONDITIONS = {
    "rule_conditions": {"logsource": {"category", "product", "service"}, "contains_field": {"field"},
                        "contains_detection_item": {"field", "value"}, "tag": {"tag"}, "is_sigma_rule": set(),
                        "is_sigma_correlation_rule": set(), "processing_item_applied": {"processing_item_id"}},
    "detection_item_conditions": {"is_null": {"cond"}, "contains_wildcard": {"cond"},
                                  "processing_item_applied": {"processing_item_id"}},
    "field_name_conditions": {"include_fields": {"fields"}, "exclude_fields": {"fields"},
                              "processing_item_applied": {"processing_item_id"}},
}
_ITEM_KEYS = {"id", "type", "rule_cond_op", "rule_cond_not", "detection_item_cond_op", "detection_item_cond_not",
              "field_name_cond_op", "field_name_cond_not", *_CONDITIONS}
_KEYS = {"name", "priority", "transformations", "allowed_backends"}

Transform = Callable[[SigmaRule | SigmaCorrelationRule], None]


@dataclass(frozen=True, slots=True)
class _Pipeline:
    path: str
    plain: dict[str, Any]
    priority: int


def load(files: Sequence[tuple[str, str]]) -> Transform:
    """What the pipelines of (path, text) do to a rule of pySigma, in place, lowest priority first.

    Raises ContentError with file and line for what may not stand in one. The transformation itself
    raises what pySigma raises.
    """
    if not files:
        return lambda _: None
    if len(files) > MAX_PIPELINES:
        raise ContentError(files[MAX_PIPELINES][0], 1, f"more than {MAX_PIPELINES} pipelines")
    plans = sorted((_read(path, text) for path, text in files), key=lambda plan: plan.priority)

    def transform(rule: SigmaRule | SigmaCorrelationRule) -> None:
        # A pipeline remembers what it did to a rule: each rule gets a fresh one.
        for plan in plans:
            ProcessingPipeline.from_dict(_plain(plan.plain)).apply(rule)

    return transform


def _read(path: str, text: str) -> _Pipeline:
    try:
        found = list(documents(text))
    except YamlError as error:
        raise ContentError(path, error.line, error.reason) from error
    if len(found) != 1 or not isinstance(found[0], Map):
        raise ContentError(path, 1, "one mapping expected, with a list of transformations")
    whole: Map = found[0]
    for key in whole:
        if key not in _KEYS:
            raise ContentError(path, whole.lines[key], f"{key}: a pipeline may have {', '.join(sorted(_KEYS))} alone",
                               "queries and templates have no meaning here")
    priority = whole.get("priority", 0)
    if not isinstance(priority, int):
        raise ContentError(path, whole.lines["priority"], "priority: an integer expected")
    items = whole.get("transformations", Items())
    if not isinstance(items, Items) or len(items) > MAX_TRANSFORMATIONS:
        raise ContentError(path, whole.lines.get("transformations", 1),
                           f"transformations: a list of at most {MAX_TRANSFORMATIONS} expected")
    for item, line in zip(items, items.lines, strict=True):
        _check(item, path, line)
    plain = {**_plain(whole), "allowed_backends": []}
    return _Pipeline(path, plain, priority)


def _check(item: object, path: str, line: int) -> None:
    """Refuse what isn't on the list."""
    if not isinstance(item, Map):
        raise ContentError(path, line, "a transformation is a mapping")
    kind = item.get("type")
    if not isinstance(kind, str) or kind not in TRANSFORMATIONS:
        at = item.lines.get("type", line)
        reason = _REFUSED.get(kind, "unknown") if isinstance(kind, str) else "it has no type"
        raise ContentError(path, at, f"transformation {kind} is refused: {reason}",
                           f"one of {', '.join(TRANSFORMATIONS)}")
    for key, value in item.items():
        if key not in _ITEM_KEYS | TRANSFORMATIONS[kind]:
            raise ContentError(path, item.lines[key], f"{key}: {kind} has no such key")
        if isinstance(value, (Map, Items)) and len(value) > MAX_ENTRIES:
            raise ContentError(path, item.lines[key], f"{key}: more than {MAX_ENTRIES} entries")
        if key in _CONDITIONS:
            _check_conditions(key, value, path, item.lines[key])
    try:
        ProcessingPipeline.from_dict({"name": "check", "priority": 0, "transformations": [_plain(item)]})
    except Exception as error:  # pySigma meets shapes that it never expected
        raise ContentError(path, line, f"not a transformation: {first_line(error)}") from error


def _check_conditions(key: str, conditions: object, path: str, line: int) -> None:
    if not isinstance(conditions, Items):
        raise ContentError(path, line, f"{key}: a list expected")
    for condition, at in zip(conditions, conditions.lines, strict=True):
        known = _CONDITIONS[key]
        kind = condition.get("type") if isinstance(condition, Map) else None
        if not isinstance(kind, str) or kind not in known:
            raise ContentError(path, at, f"{key}: the condition {kind} is refused", f"one of {', '.join(known)}")
        others = set(condition) - known[kind] - {"type"}
        if others:
            raise ContentError(path, at, f"{key}: {kind} may not have {', '.join(sorted(others))}")


def _plain(value: Any) -> Any:
    """Plain mappings and lists: pySigma takes keys out of what it is given."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
