"""The engine on rules and recordings that nobody here wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor import schema
from sensor.rules import content, reference, sigma, sigma_pipeline
from sensor.rules.matcher import Matcher
from sensor.rules.model import Rule, RuleSet
from sensor.rules.yamlsafe import documents
from tests.conftest import shared_data

LOADED = {"process_creation": 122, "file_event": 8, "network_connection": 5, "auditd": 44}
FILE_ACTIONS = {"file_event": "file-open", "file_read": "file-open", "file_delete": "file-unlink",
                "file_rename": "file-rename", "file_chmod": "file-chmod"}


def linux() -> RuleSet:
    return content.load(content.discover([str(shared_data("sigma", "linux"))]))


def test_every_rule_for_our_log_sources_loads():
    """135 of 135 rules of the three categories load and 44 of 53 for auditd; none of the 210 is refused."""
    rules = linux()
    assert list(map(str, rules.refused)) == []
    assert {name: sum(rule.categories == (name,) for rule in rules.rules) for name in LOADED} == LOADED
    assert len(rules.rules) == sum(LOADED.values())


def test_other_rules_are_unsupported_for_their_log_source():
    """22 others are for log lines: their log source has a service, or no category."""
    lines = [each for each in linux().unsupported if "service=auditd" not in each.logsource]
    assert len(lines) == 22
    for each in lines:
        (document,) = documents(Path(each.path).read_text())
        source = document["logsource"]
        assert "category" not in source
        assert ("service" in source) == each.logsource.startswith("product=linux service=")


def test_rules_for_auditd_are_mapped_or_name_what_is_missing():
    """44 of 53 are about data that our events carry; each of the nine others says which field is missing."""
    rules = linux()
    assert sum(rule.categories == ("auditd",) for rule in rules.rules) == 44
    missing = {Path(each.path).stem.removeprefix("lnx_auditd_"): each.reason.partition(":")[0]
               for each in rules.unsupported if "service=auditd" in each.logsource}
    assert missing == {
        "disable_aslr_protection": "field SYSCALL=personality",
        "keylogging_with_pam_d": "field type=tty",
        "susp_c2_commands": "field key",
        "disable_system_firewall": "field type=service_stop",
        "clean_disable_dmesg_logs_via_syslog": "field SYSCALL=syslog",
        "create_account": "field type=add_user",
        "network_service_scanning": "field key",
        "susp_discovery_sysinfo_syscall": "field SYSCALL=sysinfo",
        "susp_special_file_creation_via_mknod_syscall": "field SYSCALL=mknod",
    }


def by_category() -> tuple[Rule, ...]:
    """The rules that were evaluated when the atomic tests were recorded."""
    return tuple(rule for rule in linux().rules if rule.categories != ("auditd",))


def recorded() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(event as recorded, document) of the atomic tests."""
    for line in shared_data("atomics", "recorded-events.jsonl").read_text().splitlines():
        event = json.loads(line)
        yield event, as_document(event)


def as_document(event: dict[str, Any]) -> dict[str, Any]:
    """A document out of the flat Sigma fields of an event recorded by another program."""
    flat = {schema.SIGMA_FIELDS[key]: value for key, value in event.items() if key in schema.SIGMA_FIELDS}
    kind = event["type"]
    flat["event.action"] = FILE_ACTIONS.get(kind, {"process_creation": "process-exec"}.get(kind, "network-connect"))
    if kind in ("file_event", "file_read"):
        flat["event.type"] = ["creation" if kind == "file_event" else "access"]
    if "Initiated" in event:
        flat["network.initiated"] = event["Initiated"] == "true"
    root: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        node = root
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    return root


def test_recorded_atomics_match_the_rules_that_two_other_matchers_saw():
    """On each of 1,842 events exactly the rules match that were observed when it was recorded.

    One observed rule is not among the 210 files; both of its events are of one test.
    """
    rules = by_category()
    loaded = {rule.id for rule in rules}
    matcher = Matcher(rules)
    absent, pairs = [], set()
    count = 0
    for event, document in recorded():
        expected = set(event["sigma"])
        absent += [(event["test"], each) for each in expected - loaded]
        found = {rule.id for rule in matcher.match(document)}
        assert found == expected & loaded, event
        pairs |= {(event["test"], each) for each in found}
        count += 1
    assert count == 1842
    assert set(absent) == {("T1057-1", "4e2f5868-08d4-413d-899f-dc2f1508627b")}
    assert len(pairs) == 58 - 1
    assert matcher.odd == 0


def test_recorded_atomics_equal_the_naive_reference():
    """The oracle agrees with the matcher on real events, all rules together (one event in three)."""
    rules = linux().rules
    matcher = Matcher(rules)
    for number, (_, document) in enumerate(recorded()):
        if number % 3 == 0:
            assert list(matcher.match(document)) == reference.match(rules, document)


#: Makes the log sources of Windows ours, and leaves the fields where the events have them.
WINDOWS = """name: Windows events
transformations:
  - type: change_logsource
    product: linux
    category: {category}
    rule_conditions:
      - {{type: logsource, product: windows, category: {category}}}
  - type: field_name_prefix
    prefix: data.
"""


def windows_rule(folder: Path, category: str) -> Rule:
    """A Windows rule through a processing pipeline, its field names kept as they are in the events."""
    (document,) = documents((folder / "rule.yml").read_text())
    transform = sigma_pipeline.load([("windows.yml", WINDOWS.format(category=category))])
    rule = sigma.read(document, str(folder), reading=sigma.Reading(resolve=lambda name: name, transform=transform))
    assert isinstance(rule, Rule), rule
    return rule


def windows_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a case: JSON objects one after the other in each file."""
    decoder = json.JSONDecoder()
    for path in sorted(folder.glob("*.json")):
        text = path.read_text(encoding="utf-8-sig").strip()
        while text:
            event, end = decoder.raw_decode(text)
            text = text[end:].lstrip()
            yield event["Event"]["EventData"]


def cases(*prefixes: str) -> list[Path]:
    folders = sorted(shared_data("sigma-regression").iterdir())
    return [folder for folder in folders if folder.name.startswith(prefixes) and folder.is_dir()]


@pytest.mark.parametrize(("prefix", "category", "action", "count"), [
    ("proc_creation_win_", "process_creation", "process-exec", 69), ("file_event_win_", "file_event", "file-open", 7)])
def test_conformance_cases_match_their_rule(prefix, category, action, count):
    """Every case's rule matches an event of the case, in the matcher and in the reference."""
    folders = cases(prefix)
    assert len(folders) == count
    silent = []
    for folder in folders:
        rule = windows_rule(folder, category)
        matcher = Matcher([rule])
        found = [{"event": {"action": action, "type": ["creation"]}, "data": event}
                 for event in windows_events(folder)]
        answers = [list(matcher.match(document)) for document in found]
        assert answers == [reference.match([rule], document) for document in found]
        if [rule] not in answers:
            silent.append(folder.name)
    assert silent == []
