"""What each piece of Sigma means here, and what is refused."""

from __future__ import annotations

import pytest
from sigma.modifiers import modifier_mapping

from sensor.rules import sigma_convert
from sensor.rules.condition import (
    ANYWHERE,
    FieldMatch,
    Glob,
    Network,
    Number,
    Order,
    Present,
    Regex,
    Relation,
    Text,
    TimePart,
    Unit,
    Wildcard,
    all_of,
    any_of,
    negate,
)
from sensor.rules.model import Refused, Rule, Unsupported
from sensor.rules.reference import holds
from tests.unit.rules_helpers import condition, document, item, parse

EXE, CMD, PID, IP = "process.executable", "process.command_line", "process.pid", "destination.ip"


def text(relation: Relation, value: str, *, cased: bool = False, field: str = CMD) -> Text:
    return Text(field, relation, value, cased)


def contains(*words: str) -> list[Text]:
    return [text(Relation.CONTAINS, word) for word in words]


ITEMS = {
    "CommandLine: AbC": text(Relation.EQUALS, "abc"),
    "CommandLine|contains: AbC": text(Relation.CONTAINS, "abc"),
    "CommandLine|startswith: AbC": text(Relation.PREFIX, "abc"),
    "CommandLine|endswith: AbC": text(Relation.SUFFIX, "abc"),
    "CommandLine|contains|cased: AbC": text(Relation.CONTAINS, "AbC", cased=True),
    "CommandLine|contains: [a, b]": any_of(*contains("a", "b")),
    "CommandLine|contains|all: [a, b]": all_of(*contains("a", "b")),
    "CommandLine: [a, null]": any_of(text(Relation.EQUALS, "a"), negate(Present(CMD))),
    "CommandLine: ''": text(Relation.EQUALS, ""),
    "CommandLine: null": negate(Present(CMD)),
    "CommandLine: []": negate(Present(CMD)),
    "CommandLine: '*'": Present(CMD),
    "CommandLine|contains: ''": Present(CMD),
    "CommandLine: 'a*'": text(Relation.PREFIX, "a"),
    "CommandLine: '*a*'": text(Relation.CONTAINS, "a"),
    r"CommandLine: 'a\*b'": text(Relation.EQUALS, "a*b"),
    r"CommandLine: 'a\\*b'": Wildcard(CMD, ("a\\", Glob.MANY, "b")),
    "CommandLine: 'a**b?'": Wildcard(CMD, ("a", Glob.MANY, "b", Glob.ONE)),
    "CommandLine|contains|cased: 'A?B'": Wildcard(CMD, (Glob.MANY, "A", Glob.ONE, "B", Glob.MANY), cased=True),
    "CommandLine|re: '^a.b$'": Regex(CMD, "^a.b$"),
    "CommandLine|re|i|m: 'a'": Regex(CMD, "a", "im"),
    "CommandLine|re|s: 'a*?'": Regex(CMD, "a*?", "s"),
    "CommandLine|exists: true": Present(CMD),
    "CommandLine|exists: false": negate(Present(CMD)),
    "CommandLine|neq: a": negate(text(Relation.EQUALS, "a")),
    "ProcessId: 7": Number(PID, Order.EQUAL, 7),
    "ProcessId: '7'": text(Relation.EQUALS, "7", field=PID),
    "ProcessId|neq: 7": negate(Number(PID, Order.EQUAL, 7)),
    "ProcessId|lt: 7": Number(PID, Order.LESS, 7),
    "ProcessId|lte: 7": Number(PID, Order.LESS_EQUAL, 7),
    "ProcessId|gt: 7": Number(PID, Order.GREATER, 7),
    "ProcessId|gte: 7.5": Number(PID, Order.GREATER_EQUAL, 7.5),
    "Initiated: true": text(Relation.EQUALS, "true", field="network.initiated"),
    "DestinationIp|cidr: 10.0.0.0/8": Network(IP, "10.0.0.0/8"),
    "DestinationIp|cidr: ['fe80::/10', 127.0.0.1]": any_of(Network(IP, "fe80::/10"), Network(IP, "127.0.0.1/32")),
    "CommandLine|fieldref: Image": FieldMatch(CMD, Relation.EQUALS, EXE),
    "CommandLine|fieldref|startswith: Image": FieldMatch(CMD, Relation.PREFIX, EXE),
    "CommandLine|fieldref|endswith: Image": FieldMatch(CMD, Relation.SUFFIX, EXE),
    "CommandLine|fieldref|contains: Image": FieldMatch(CMD, Relation.CONTAINS, EXE),
    "CommandLine|base64: abc": text(Relation.EQUALS, "ywjj"),
    "CommandLine|base64|contains|cased: abc": text(Relation.CONTAINS, "YWJj", cased=True),
    "CommandLine|base64offset|contains: bash": any_of(*contains("ymfza", "jhc2", "iyxno")),
    "CommandLine|wide: ab": text(Relation.EQUALS, "a\0b\0"),
    "CommandLine|utf16be: ab": text(Relation.EQUALS, "\0a\0b"),
    "CommandLine|utf16: ab": text(Relation.EQUALS, "\ufeffa\0b\0"),
    "CommandLine|windash|contains: ' -x'": any_of(*contains(" -x", " /x", " –x", " —x", " ―x")),
    "'@timestamp|hour': 5": TimePart("@timestamp", Unit.HOUR, Order.EQUAL, 5),
    "'@timestamp|minute': 5": TimePart("@timestamp", Unit.MINUTE, Order.EQUAL, 5),
    "'@timestamp|day': 5": TimePart("@timestamp", Unit.DAY, Order.EQUAL, 5),
    "'@timestamp|week': 5": TimePart("@timestamp", Unit.WEEK, Order.EQUAL, 5),
    "'@timestamp|month': 5": TimePart("@timestamp", Unit.MONTH, Order.EQUAL, 5),
    "'@timestamp|year|gte': 2026": TimePart("@timestamp", Unit.YEAR, Order.GREATER_EQUAL, 2026),
    "'|all': [a, b]": all_of(*(text(Relation.CONTAINS, word, field=ANYWHERE) for word in "ab")),
    "'|re': 'a.b'": Regex(ANYWHERE, "a.b"),
    "process.parent.user.name: a": text(Relation.EQUALS, "a", field="process.parent.user.name"),
}


@pytest.mark.parametrize("line", ITEMS)
def test_detection_item_becomes(line):
    """One line of a detection and the condition that it stands for."""
    assert item(line) == ITEMS[line]


def test_every_modifier_is_understood_or_refused_for_a_reason():
    """Each value modifier that pySigma knows appears above; ``expand`` alone can't be resolved."""
    used = {word for line in ITEMS for word in line.split(":")[0].strip("'").split("|")[1:]}
    aliases = {"ignorecase": "i", "multiline": "m", "dotall": "s"}
    assert set(modifier_mapping) - used - {"expand"} == set(aliases)
    for alias, name in aliases.items():
        assert item(f"CommandLine|re|{alias}: a") == item(f"CommandLine|re|{name}: a")


CONDITIONS = {
    "a and b": all_of(*contains("a", "b")),
    "a or b and c": any_of(contains("a")[0], all_of(*contains("b", "c"))),
    "not a": negate(contains("a")[0]),
    "a and not (b or c)": all_of(contains("a")[0], negate(any_of(*contains("b", "c")))),
    "1 of x_*": any_of(*contains("x1", "x2")),
    "any of x_*": any_of(*contains("x1", "x2")),
    "all of x_*": all_of(*contains("x1", "x2")),
    "all of them": all_of(*contains("a", "b", "c", "x1", "x2")),
    "1 of them": any_of(*contains("a", "b", "c", "x1", "x2")),
    "a and not 1 of x_*": all_of(contains("a")[0], negate(any_of(*contains("x1", "x2")))),
    "[a, b and c]": any_of(contains("a")[0], all_of(*contains("b", "c"))),
}


@pytest.mark.parametrize("line", CONDITIONS)
def test_condition_becomes(line):
    """A condition line over five detections and one whose name begins with an underscore."""
    detections = "\n".join(f"{name}: {{CommandLine|contains: {word}}}" for name, word in (
        ("a", "a"), ("b", "b"), ("c", "c"), ("x_1", "x1"), ("x_2", "x2"), ("_x", "hidden")))
    assert condition(f"{detections}\ncondition: {line}") == CONDITIONS[line]


def test_list_of_mappings_is_any_of_them():
    """Maps in a list are alternatives, keys in a map all have to hold."""
    assert condition("s:\n  - {CommandLine: a, Image: b}\n  - CommandLine: c\ncondition: s") == any_of(
        all_of(text(Relation.EQUALS, "a"), text(Relation.EQUALS, "b", field=EXE)), text(Relation.EQUALS, "c"))


def test_keywords_look_into_every_value_but_the_sensors_own():
    """A word is found in any field, parts of it too, and not in what the sensor added."""
    tree = condition("keywords: [EVIL, 'a*b', 7331]\ncondition: keywords")
    assert holds(tree, document(file={"path": "/tmp/evil.sh"}))
    assert holds(tree, document(process={"args": ["x", "--aXXb--"]}))
    assert holds(tree, document(source={"port": 7331}))
    assert not holds(tree, document(sensor={"flags": ["evil"]}, process={"name": "b-a"}))


REFUSED = {
    "s: {Imagee: a}\ncondition: s": (4, "unknown field Imagee (did you mean Image?)"),
    "s:\n  Image: x\n  Frobnicated: a\ncondition: s": (6, "unknown field Frobnicated"),
    "s:\n  - Image: x\n  - CommandLine|expand: '%who%'\ncondition: s": (6, "placeholder %who% has no values"),
    "s:\n  Image: x\n  CommandLine|re: '(?!a)b'\ncondition: s": (6, "invalid perl operator"),
    "s:\n  Image: x\n  CommandLine|re: '(a'\ncondition: s": (6, "missing )"),
    "s:\n  CommandLine|frob: a\ncondition: s": (5, "Unknown modifier"),
    "s:\n  DestinationIp|cidr: 10.1.0.0/8\ncondition: s": (5, "host bits set"),
    "s:\n  ProcessId|gt: abc\ncondition: s": (5, "incompatible"),
    "s:\n  Image: {a: b}\ncondition: s": (5, "Unsupported type"),
    "s:\n  Image: 2026-01-01\ncondition: s": (5, "Unsupported type"),
    "s: {}\ncondition: s": (4, "empty"),
    "s: {Image: a}\ncondition: t": (5, "not defined"),
    "s: {Image: a}\ncondition: s and": (5, "Expected"),
    "s: {Image: a}\ncondition: s | count() > 5": (5, "pipe syntax"),
    "s: {Image: a}\ncondition: 1 of x_*": (5, ""),  # pySigma 1 and 2 say it in different words
    "s: {Image: a}\ncondition: 2 of s*": (5, "Expected"),
    "s: {Image: a}\ncondition: 3": (5, "text expected"),
    "s: {Image: a}": (3, "must contain at least one condition"),
    "s: {Image: a}\ncondition: " + "(" * 3000 + "s" + ")" * 3000: (5, "longer than"),
}


@pytest.mark.parametrize("detection", REFUSED, ids=lambda text: text[:60])
def test_broken_rule_is_refused_with_line_and_reason(detection):
    """The refusal names the line of the piece at fault, and says what is wrong with it."""
    refused = parse(detection)
    line, reason = REFUSED[detection]
    assert isinstance(refused, Refused)
    assert reason.lower() in refused.reason.lower()
    assert (refused.line, refused.rule, refused.path) == (line, "A rule", "rule.yml")


def test_deep_condition_is_refused():
    """What is nested deeper than the other parts of the engine recurse is no rule."""
    deep = "s"
    for number in range(sigma_convert.MAX_NESTING):
        deep = f"(s{number % 2} {'and' if number % 2 else 'or'} not {deep})"
    refused = parse("s: {Image: a}\ns0: {Image: b}\ns1: {Image: c}\ncondition: " + deep)
    assert isinstance(refused, Refused)
    assert "nested deeper" in refused.reason


@pytest.mark.parametrize(("source", "reason"), [
    ("{product: windows, category: process_creation}", "product windows"),
    ("{product: linux, service: auditd}", "field EventID: no event of this sensor carries it"),
    ("{product: linux}", "without a category"),
    ("{product: linux, category: registry_event}", "category registry_event"),
    ("{product: linux, category: process_creation, service: sshd}", "service sshd"),
])
def test_rule_for_another_log_source_is_unsupported(source, reason):
    """A sound rule that no event of ours could match is named, with its log source."""
    found = parse("s: {EventID: 1}\ncondition: s", source)
    assert isinstance(found, Unsupported)
    assert reason in found.reason


def test_broken_rule_for_another_log_source_is_refused():
    """Unsupported means sound: a condition that doesn't parse is broken wherever it is from."""
    assert isinstance(parse("s: {EventID: 1}\ncondition: t", "{product: windows}"), Refused)


def test_rule_without_product_is_ours():
    """A log source of a category alone covers Linux too."""
    assert isinstance(parse("s: {Image: 1}\ncondition: s", "{category: file_event}"), Rule)


def test_metadata_is_kept_for_alerts():
    """Id, level, tags and techniques arrive as alerts need them."""
    rule = parse("s: {Image: a}\ncondition: s",
                 "{category: process_creation}\nid: 0b9ad457-2554-44c1-82c2-d56a99c42377"
                 "\nlevel: high\ntags: [attack.t1059.004, attack.execution, cve.2021-1]\n"
                 "description: |\n  Two\n  lines\n"
                 "references: [https://example.org]\nfalsepositives: [Backups]")
    assert isinstance(rule, Rule)
    assert (rule.id, rule.level) == ("0b9ad457-2554-44c1-82c2-d56a99c42377", "high")
    assert rule.tags == ("attack.t1059.004", "attack.execution", "cve.2021-1")
    assert rule.techniques == ("T1059.004",)
    assert (rule.description, rule.references) == ("Two\nlines", ("https://example.org",))
    assert rule.falsepositives == ("Backups",)
    assert rule.events == ("process-exec",)


def test_rule_without_id_gets_a_stable_one():
    """The same title gives the same id in each run."""
    first, second = parse("s: {Image: a}\ncondition: s"), parse("s: {Image: b}\ncondition: s")
    assert isinstance(first, Rule)
    assert isinstance(second, Rule)
    assert first.id == second.id
