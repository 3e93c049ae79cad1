"""Sigma's global filters, placeholders, processing pipelines, modifiers and rules for auditd."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sigma.modifiers import modifier_mapping

from sensor.errors import ContentError
from sensor.rules import content, reference, samples
from sensor.rules.condition import Network, Not, Or, Present, Regex, Relation, Text, any_of
from sensor.rules.matcher import Matcher
from sensor.rules.model import Options, RuleSet
from tests.conftest import ROOT
from tests.unit.rules_helpers import condition, item

RULE = """title: Started
id: 00000000-0000-4000-8000-000000000001
name: started
logsource: {product: linux, category: process_creation}
detection: {s: {Image|endswith: /x}, condition: s}
"""
FILTER = """title: Not ours
logsource: {product: linux, category: process_creation}
filter: {rules: [started], own: {User: bob}, condition: not own}
"""


def load(folder: Path, *texts: str, options: Options | None = None) -> RuleSet:
    """A rule set of documents in one file."""
    (folder / "r.yml").write_text("---\n".join(texts))
    return content.load(content.discover([str(folder / "r.yml")]), options=options or Options())


def matched(rules: RuleSet, **sample: object) -> set[str]:
    """Titles of the rules that match a sample, in the matcher and in the reference."""
    document = samples.expand({"event": "process_exec", **{key.replace("__", "."): each
                                                           for key, each in sample.items()}})
    found = list(Matcher(rules.rules).match(document))
    assert found == reference.match(rules.rules, document)
    return {rule.name for rule in found}


# Filters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference_", ["[started]", "started", "00000000-0000-4000-8000-000000000001", "any", "[]"])
def test_filter_takes_events_away_from_rules_that_it_means(tmp_path, reference_):
    """By name, by id, or all of its log source; before or after the rule in the files."""
    changed = FILTER.replace("[started]", reference_)
    for texts in ((RULE, changed), (changed, RULE)):
        rules = load(tmp_path, *texts)
        assert (rules.refused, rules.unsupported, rules.filters) == ((), (), 1)
        assert matched(rules, Image="/x", User="ann") == {"Started"}
        assert matched(rules, Image="/x", User="bob") == set()


@pytest.mark.parametrize("change", [
    ("[started]", "[stopped]"), ("category: process_creation", "category: file_event"), ("product: linux, ", "")])
def test_filter_for_others_leaves_a_rule_alone(tmp_path, change):
    """Another name or log source; one that says less of its log source means more rules."""
    rules = load(tmp_path, RULE, FILTER.replace(*change))
    met = change[1] == ""
    assert (rules.filters, len(rules.unsupported)) == ((1, 0) if met else (0, 1))
    assert matched(rules, Image="/x", User="bob") == (set() if met else {"Started"})


@pytest.mark.parametrize(("text", "line", "reason"), [
    (FILTER.replace("User", "Usr"), 3, "unknown field Usr (did you mean User?)"),
    (FILTER.replace("condition: not own", "condition: not other"), 3, "other"),
    (FILTER.replace("rules: [started], ", ""), 3, "rules"),
    (FILTER.replace("own: {User: bob}", "own: {User|re: '(?=a)'}"), 3, "regular expression"),
    (FILTER.replace("logsource: {product: linux, category: process_creation}\n", ""), 2, "log source"),
])
def test_broken_filter_is_refused_with_line(tmp_path, text, line, reason):
    """The rule stays as it is, and loaded."""
    rules = load(tmp_path, text, RULE)
    (refused,) = rules.refused
    assert reason.lower() in refused.reason.lower()
    assert refused.line == line
    assert matched(rules, Image="/x", User="bob") == {"Started"}


# Placeholders ---------------------------------------------------------------------------------------

EXPAND = RULE.replace("Image|endswith: /x", "User|expand: '%admins%'")


def test_placeholders_stand_for_the_values_of_the_settings(tmp_path):
    """Any of them, alone or within text, in lists with ``all``, in expressions, folded like any text."""
    options = Options({"admins": ("Ann", "b*"), "hosts": ("h1", "h2")})
    rules = load(tmp_path, EXPAND, options=options)
    assert [matched(rules, User=user) for user in ("ANN", "bob", "carl")] == [{"Started"}, {"Started"}, set()]
    both = "CommandLine|expand|contains|all: ['-u %admins% ', '@%hosts%']"
    rules = load(tmp_path, RULE.replace("Image|endswith: /x", both), options=options)
    assert rules.refused == ()
    assert matched(rules, CommandLine="ssh -u ann x@h2") == {"Started"}
    assert matched(rules, CommandLine="ssh -u carl x@h2") == set()
    rules = load(tmp_path, RULE.replace("Image|endswith: /x", "User|re|expand: '^%hosts%$'"), options=options)
    assert [matched(rules, User=user) for user in ("h2", "h3", "xh2")] == [{"Started"}, set(), set()]
    rules = load(tmp_path, EXPAND.replace("|expand", "|expand|cased"), options=options)
    assert [matched(rules, User=user) for user in ("Ann", "ann")] == [{"Started"}, set()]


@pytest.mark.parametrize(("options", "reason"), [
    (Options(), "placeholder %admins% has no values: give it some in the settings, under rules.placeholders"),
    (Options({"admins": tuple(map(str, range(1001)))}), "more than 1000 values"),
])
def test_placeholder_that_can_not_be_filled_refuses_the_rule(tmp_path, options, reason):
    """With the line of the item and what to do."""
    (refused,) = load(tmp_path, EXPAND, options=options).refused
    assert reason in refused.reason
    assert refused.line == 5


# Pipelines ------------------------------------------------------------------------------------------

PIPELINE = """name: Windows
priority: 10
transformations:
  - id: source
    type: change_logsource
    product: linux
    category: process_creation
    rule_conditions:
      - {type: logsource, product: windows, category: process_creation}
  - type: field_name_mapping
    mapping:
      OriginalFileName: [process.name, Image]
      IntegrityLevel: User
  - type: map_string
    mapping: {System: root}
    field_name_conditions:
      - {type: include_fields, fields: [User]}
"""
WINDOWS = """title: W
name: w
logsource: {product: windows, category: process_creation}
detection:
  s: {OriginalFileName: tool, IntegrityLevel: System}
  condition: s
"""


def test_pipeline_makes_foreign_rules_ours(tmp_path):
    """Log source, fields (one to several) and values; correlations and filters of such rules follow."""
    (tmp_path / "p.yaml").write_text(PIPELINE)
    options = Options(pipelines=(str(tmp_path / "p.yaml"),))
    assert load(tmp_path, WINDOWS).rules == ()
    correlation = ("title: C\ncorrelation: {type: event_count, rules: w, group-by: IntegrityLevel, timespan: 1m, "
                   "condition: {gte: 2}, generate: true}\n")
    ours = ("title: F\nlogsource: {product: windows, category: process_creation}\n"
            "filter: {rules: any, s: {OriginalFileName: /bin/tool}, condition: not s}\n")
    rules = load(tmp_path, WINDOWS, correlation, options=options)
    assert (rules.refused, rules.unsupported) == ((), ())
    assert rules.correlations[0].keys == (("user.name",),)
    assert matched(rules, Image="/bin/tool", User="root") == {"W"}
    assert matched(rules, Image="/bin/tool", User="System") == set()
    assert matched(rules, Image="/bin/other", User="root") == set()
    assert matched(load(tmp_path, WINDOWS, ours, options=options), Image="/bin/tool", User="root") == set()


@pytest.mark.parametrize(("text", "line", "reason"), [
    ("transformations:\n  - {type: command_placeholders, command: id}\n", 2, "may not run commands"),
    ("transformations:\n  - {type: http_placeholders, url: x}\n", 2, "may not ask the network"),
    ("transformations:\n  - {type: file_placeholders, path: /etc/shadow}\n", 2, "may not read files"),
    ("transformations:\n  - type: replace_string\n    regex: (a+)+b\n    replacement: c\n", 2, "can hang"),
    ("transformations:\n  - {type: nest, items: []}\n", 2, "one after the other"),
    ("transformations:\n  - {type: nonsense}\n", 2, "unknown"),
    ("transformations:\n  - {mapping: {}}\n", 2, "no type"),
    ("transformations:\n  - {type: add_condition, conditions: {a: b}, template: true}\n", 2, "template: add_condition"),
    ("transformations:\n  - type: set_value\n    value: 1\n    rule_conditions:\n      - {type: rule_attribute}\n", 5,
     "the condition rule_attribute is refused"),
    ("""transformations:
  - type: drop_detection_item
    field_name_conditions:
      - {type: include_fields, fields: ['(a+)+'], mode: re}
""", 4, "may not have mode"),
    ("postprocessing:\n  - {type: template}\n", 1, "postprocessing"),
    ("vars: {a: b}\n", 1, "vars"),
    ("priority: high\n", 1, "an integer"),
    ("transformations: {}\n", 1, "a list of at most"),
    ("- a\n", 1, "one mapping"),
    ("a: &x b\n", 1, "anchors"),
    ("transformations:\n" + "  - {type: drop_detection_item}\n" * 257, 1, "at most 256"),
    ("transformations:\n  - {type: field_name_mapping}\n", 2, "not a transformation"),
])
def test_pipelines_that_do_more_than_rename_are_refused(tmp_path, text, line, reason):
    """With file, line and reason, before any rule is read."""
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ContentError) as caught:
        load(tmp_path, RULE, options=Options(pipelines=(str(tmp_path / "p.yaml"),)))
    assert caught.value.line == line
    assert reason in str(caught.value)


def test_rule_that_a_pipeline_fails_is_refused(tmp_path):
    """The pipeline's message is the reason."""
    (tmp_path / "p.yaml").write_text("transformations:\n  - {type: rule_failure, message: no such data}\n")
    (refused,) = load(tmp_path, RULE, options=Options(pipelines=(str(tmp_path / "p.yaml"),))).refused
    assert "no such data" in refused.reason


# Modifiers ------------------------------------------------------------------------------------------


def test_page_names_each_modifier_that_pysigma_knows():
    """What a reader is promised covers all there is."""
    table = (ROOT / "docs" / "rules.md").read_text("utf-8").partition("## What is understood of Sigma")[2]
    named = set(re.findall(r"`(\w+)`", table.partition("The table holds")[0]))
    synonyms = {"ignorecase": "i", "multiline": "m", "dotall": "s"}
    assert {synonyms.get(name, name) for name in modifier_mapping} <= named


def test_negated_items_and_lists_of_conditions():
    """``neq`` negates the item; a list of conditions is any of them."""
    assert item("Image|neq: /a") == Not(Text("process.executable", Relation.EQUALS, "/a"))
    assert item("Image|contains|neq: a") == Not(Text("process.executable", Relation.CONTAINS, "a"))
    parts = [Text("process.executable", Relation.EQUALS, each) for each in ("a", "b")]
    assert condition("a: {Image: a}\nb: {Image: b}\ncondition: [a, b]") == any_of(*parts)
    assert item("DestinationIp|cidr: [10.0.0.0/8, 'fe80::/10']") == Or(
        (Network("destination.ip", "10.0.0.0/8"), Network("destination.ip", "fe80::/10")))
    assert item("Image|re|i|m|s: a.b$") == Regex("process.executable", "a.b$", "ims")
    assert item("Image|exists: true") == Present("process.executable")


# auditd ---------------------------------------------------------------------------------------------

AUDITD = "title: A\nlogsource: {{product: linux, service: auditd}}\ndetection: {{s: {{{0}}}, condition: s}}\n"


@pytest.mark.parametrize(("detection", "events", "yes", "no"), [
    ("type: EXECVE, a0|endswith: dd, a2: [x, y]", {"process-exec"},
     {"process.args": ["/bin/dd", "if=a", "y"]}, {"process.args": ["/bin/dd", "y"]}),
    ("type: execve, a1: 777", {"process-exec"}, {"process.args": ["chmod", "777"]}, {"process.args": ["chmod", "755"]}),
    ("type: SYSCALL, comm: insmod, exe: /usr/bin/kmod", {"process-exec"},
     {"Image": "/sbin/insmod", "process.executable_resolved": "/usr/bin/kmod"},
     {"Image": "/sbin/lsmod", "process.executable_resolved": "/usr/bin/kmod"}),
    ("type: SYSCALL, SYSCALL: memfd_create, exe: /x", {"memfd-create"},
     {"event": "memfd_create", "process.executable_resolved": "/x"}, {"process.executable_resolved": "/x"}),
    ("type: SYSCALL, SYSCALL: [execve, execveat], euid: 33", {"process-exec"},
     {"user.effective.id": 33}, {"user.effective.id": 34}),
    ("type: PATH, nametype: CREATE, name|startswith: /etc/systemd/", {"file-open", "file-rename", "file-link",
                                                                     "file-mkdir"},
     {"event": "file_rename", "TargetFilename": "/etc/systemd/x", "SourceFilename": "/tmp/x"},
     {"event": "file_rename", "TargetFilename": "/tmp/x", "SourceFilename": "/etc/systemd/x"}),
    ("type: PATH, nametype: NORMAL, name: /etc/x", {"process-exec", "file-open", "file-chmod", "file-chown"},
     {"event": "file_open", "TargetFilename": "/etc/x"},
     {"event": "file_open", "TargetFilename": "/etc/x", "sensor.flags": ["created"]}),
    ("a1: --x", {"process-exec"}, {"process.args": ["p", "--x"]}, {"process.args": ["--x"]}),
])
def test_auditd_records_are_our_events(tmp_path, detection, events, yes, no):
    """EXECVE, SYSCALL and PATH, each with its fields, matched alike by matcher and reference."""
    rules = load(tmp_path, AUDITD.format(detection))
    assert (rules.refused, rules.unsupported) == ((), ())
    assert set(rules.rules[0].events) == events
    assert matched(rules, **yes) == {"A"}
    assert matched(rules, **no) == set()


@pytest.mark.parametrize(("detection", "reason"), [
    ("key: x", "field key"), ("type: TTY", "field type=tty"), ("unit: x", "field unit"),
    ("type: SYSCALL, SYSCALL: sysinfo", "field SYSCALL=sysinfo"), ("type: SYSCALL, SYSCALL: execve, a0: 4", "field a0"),
    ("type: PATH, inode: 4", "field inode"), ("type: EXECVE, name: x", "never stand together"),
])
def test_what_auditd_alone_knows_is_named(tmp_path, detection, reason):
    """The field that no event carries; no rule is loaded by half."""
    rules = load(tmp_path, AUDITD.format(detection))
    assert rules.rules == rules.refused == ()
    (unsupported,) = rules.unsupported
    assert reason in unsupported.reason
    if "together" not in reason:
        parts = f"s: {{{detection}}}, t: {{type: EXECVE, a0: b}}, condition: s or t"
        assert load(tmp_path, AUDITD.format("x: y").replace("s: {x: y}, condition: s", parts)).rules == ()


# Docs -----------------------------------------------------------------------------------------------


def test_example_of_the_page_does_what_its_samples_say(tmp_path):
    """The correlation in docs/rules.md, loaded and run."""
    page = (ROOT / "docs" / "rules.md").read_text("utf-8")
    rule, events = (page.partition(f"<!-- {mark} -->\n```yaml\n")[2].partition("```")[0]
                    for mark in ("example", "samples"))
    (tmp_path / "e.yml").write_text(rule)
    (tmp_path / "e.samples.yml").write_text(events)
    rules = content.load(content.discover([str(tmp_path)]))
    assert (rules.refused, len(rules.correlations)) == ((), 1)
    assert samples.run(rules.rules, rules.correlations) == samples.Results(3, (), (), ())
