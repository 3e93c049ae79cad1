"""Falco's items: defined, appended to, overridden, refused; and what becomes of rules that use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.alerts import alert
from sensor.cli import call
from sensor.rules import content
from sensor.rules.falco.model import FalcoRule, FalcoUnsupported
from sensor.rules.falco.output import MAX_MESSAGE, MAX_VALUE, render
from sensor.rules.model import Refused
from sensor.rules.reference import match
from tests.unit.falco_helpers import Host, load, rule, rule_text


def fires(rules: object, *argv: str, **more: object) -> list[str]:
    """Names of the rules that match an execution."""
    assert isinstance(rules, list)
    event = Host().run(*argv, **more)[1]  # type: ignore[arg-type]
    return [each.name for each in match([each for each in rules if isinstance(each, FalcoRule)], event)]


def reasons(*files: str) -> list[str]:
    return [str(each) for each in load(*files) if not isinstance(each, FalcoRule)]


LIST = "- list: names\n  items: [nc, ncat]\n"
MACRO = "- macro: tool\n  condition: proc.name in (names, socat)\n"
RULE = rule_text("evt.type = execve and tool")


def test_macros_and_lists_are_resolved() -> None:
    """In conditions and in each other, also where a list is defined later than the macro that names it."""
    for text in (LIST + MACRO + RULE, MACRO + RULE + LIST):
        rules = load(text)
        assert [fires(rules, name) for name in ("nc", "ncat", "socat", "names", "ls")] == [
            ["A rule"], ["A rule"], ["A rule"], [], []]


def test_list_in_a_list_is_resolved_only_if_it_stands_before() -> None:
    """As Falco does: otherwise the name is a value."""
    inner, outer = "- list: inner\n  items: [a]\n", "- list: outer\n  items: [inner, b]\n"
    made = rule_text("evt.type = execve and proc.name in (outer)")
    assert [fires(load(inner + outer + made), name) for name in ("a", "b", "inner")] == [["A rule"], ["A rule"], []]
    assert [fires(load(outer + inner + made), name) for name in ("a", "b", "inner")] == [[], ["A rule"], ["A rule"]]


def test_quoted_value_is_no_list() -> None:
    """Quotes inside of YAML's make a value of it."""
    text = LIST + rule_text("evt.type = execve and proc.name in ('names', \"x y\")")
    assert [fires(load(text), name) for name in ("nc", "names", "/bin/x y")] == [[], ["A rule"], ["A rule"]]


@pytest.mark.parametrize("change", ["append: true", "override: {items: append}"])
def test_list_is_appended_to(change: str) -> None:
    """In another file, too."""
    rules = load(LIST + MACRO + RULE, f"- list: names\n  {change}\n  items: [ls]\n")
    assert fires(rules, "ls") == fires(rules, "nc") == ["A rule"]


def test_list_is_replaced_by_a_later_definition() -> None:
    """And with override: replace the same."""
    for change in ("", "  override: {items: replace}\n"):
        rules = load(LIST + MACRO + RULE, f"- list: names\n{change}  items: [ls]\n")
        assert (fires(rules, "ls"), fires(rules, "nc")) == (["A rule"], [])


def test_macro_is_appended_to_as_text() -> None:
    """``and`` after a disjunction binds to its last part, as it does in Falco."""
    rules = load("- macro: tool\n  condition: proc.name = a or proc.name = b\n" + RULE,
                 "- macro: tool\n  append: true\n  condition: and proc.args contains x\n")
    assert [fires(rules, *argv) for argv in (("a",), ("b",), ("b", "x"))] == [["A rule"], [], ["A rule"]]


def test_rule_is_replaced_whole_and_stays_one() -> None:
    """The later definition counts, with its own line."""
    rules = load(RULE.replace("tool", "proc.name = a"), "\n" + RULE.replace("tool", "proc.name = b"))
    assert [(each.path, each.line) for each in rules] == [("rules1.yaml", 2)]  # type: ignore[union-attr]
    assert (fires(rules, "a"), fires(rules, "b")) == ([], ["A rule"])


def test_rule_is_overridden_key_by_key() -> None:
    """Appended keys are joined, replaced ones taken, others kept."""
    first = rule_text("evt.type = execve and proc.name = a", extra="tags: [one]")
    (made,) = load(first, "- rule: A rule\n  condition: or proc.name = b\n  priority: ERROR\n  tags: [two]\n"
                   "  output: more\n  desc: other\n"
                   "  override: {condition: append, priority: replace, tags: append, output: append, desc: replace}\n")
    assert isinstance(made, FalcoRule)
    assert (made.level, made.tags, made.output, made.description) == ("high", ("one", "two"), "what happened more",
                                                                      "other")
    assert fires([made], "b") == ["A rule"]


def test_enabled_switches_rules() -> None:
    """Off in its own item or by a later one, and on again."""
    off, on = "- rule: A rule\n  enabled: false\n", "- rule: A rule\n  enabled: true\n"
    made = rule_text("evt.type = execve and proc.name = a")
    assert load(rule_text("evt.type = execve", extra="enabled: false")) == []
    assert load(made, off) == []
    assert len(load(made, off, on)) == 1
    assert load(made, "- rule: A rule\n  enabled: false\n  override: {enabled: replace}\n") == []


def test_a_rule_that_is_only_named_again_is_refused() -> None:
    """And takes the earlier one along: nobody knows what was meant to be changed."""
    (said,) = reasons(rule_text("evt.type = execve"), "- rule: A rule\n")
    assert "condition: text expected" in said


EXCEPTIONS = """exceptions:
- name: pairs
  fields: [proc.name, proc.args]
  values: [[a, x], [b, '"y z"']]
- name: compared
  fields: [proc.name, proc.args, proc.cwd]
  comps: [in, startswith, pmatch]
  values: [[[c, d], --safe, (/srv)]]
- name: single
  fields: proc.pname
  values: [good, names]
- name: empty
  fields: [proc.name]
"""


def test_exceptions_leave_out_what_they_name() -> None:
    """Defaults are = for several fields and in for one; rows are alternatives; lists are resolved."""
    rules = load(LIST + rule_text("evt.type = execve or evt.type = execveat", extra=EXCEPTIONS))
    left_out = [("a", "x"), ("b", "y", "z"), ("c", "--safe=1"), ("d", "--safe")]
    assert [fires(rules, *argv, cwd="/srv/x") for argv in left_out] == [[]] * 4
    assert fires(rules, "z", parents=("good",)) == fires(rules, "z", parents=("nc",)) == []
    kept = [("a", "y"), ("b", "x"), ("a", "x", "1"), ("c", "un--safe"), ("e", "--safe")]
    assert [fires(rules, *argv, cwd="/srv/x") for argv in kept] == [["A rule"]] * 5
    assert fires(rules, "c", "--safe", cwd="/srv2") == ["A rule"]


@pytest.mark.parametrize("change", ["append: true", "override: {exceptions: append}"])
def test_exceptions_are_appended_to(change: str) -> None:
    """Values of one that is there, and new ones."""
    rules = load(LIST + rule_text("evt.type = execve", extra=EXCEPTIONS),
                 f"- rule: A rule\n  {change}\n  exceptions:\n  - {{name: pairs, values: [[q, r]]}}\n"
                 "  - {name: new, fields: proc.name, comps: in, values: [w]}\n")
    assert fires(rules, "q", "r") == fires(rules, "w") == fires(rules, "a", "x") == []
    assert fires(rules, "q") == ["A rule"]


@pytest.mark.parametrize(("text", "line", "reason"), [
    ("- list: a\n  items: x\n", 1, "items: a list expected"),
    ("- list: a\n  items: [x]\n  append: true\n", 1, "there is no list a yet"),
    ("- macro: a\n  condition: [x]\n", 2, "condition: text expected"),
    ("- macro: a\n  condition: b\n  append: true\n", 1, "there is no macro a yet"),
    ("- rule: a\n  condition: b\n", 1, "a rule needs output"),
    ("- rule: a\n  condition: x\n  append: true\n", 1, "there is no rule a yet"),
    (rule_text("x", extra="colour: red"), 7, "unknown key 'colour'"),
    (rule_text("x").replace("WARNING", "LOUD"), 6, "priority: 'LOUD'"),
    (rule_text("x", extra="enabled: maybe"), 7, "enabled: true or false"),
    (rule_text("x", extra="tags: a"), 7, "tags: a list expected"),
    (rule_text("x", extra="exceptions: [{name: e, fields: [a.b], comps: [in, in]}]"), 7, "as many comps"),
    (rule_text("x", extra="exceptions: [{name: e, fields: a.b, comps: startswith}]"), 7, "one field is compared"),
    (rule_text("x", extra="exceptions: [{name: e, fields: [a.b, c.d], values: [[x]]}]"), 7, "rows of 2"),
    (rule_text("x", extra="exceptions: [{name: e, fields: [a.b], comps: [like]}]"), 7, "no comparison"),
    (rule_text("undefined"), 1, "no macro is called undefined"),
    (rule_text("proc.nam = a"), 1, "Falco has no field proc.nam (did you mean proc.name?)"),
    (rule_text("proc.name like a"), 1, "unexpected 'like a'"),
    (rule_text("proc.pid = a"), 1, "proc.pid =: 'a' is no number"),
    (rule_text("proc.name < 3"), 1, "< compares numbers"),
    (rule_text("fd.sip = x"), 1, "'x' is no IP address"),
    (rule_text("proc.cwd regex '('"), 1, "regular expression"),
    (rule_text("proc.cwd glob '@(a|b)'"), 1, "alternatives"),
    (rule_text("proc.is_exe_from_memfd = maybe"), 1, "true or false"),
    (rule_text("proc.name[2] = a"), 1, "takes no argument"),
    (rule_text("evt.arg = a"), 1, "needs an argument"),
    ("- macro: m\n  condition: a b\n" + rule_text("m"), 3, "macro m: condition: unexpected 'b'"),
    ("- required_engine_version: 0.99.0\n", 1, "needs Falco's engine 0.99.0"),
    ("- required_engine_version: latest\n", 1, "is no version"),
    ("- 7\n- rule: x\n  condition: y\n", 1, "an item is a mapping"),
])
def test_broken_item_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    """And a good rule beside it still loads."""
    found = load(text + ("" if "required" in text else rule_text("evt.type = execve", name="Good")))
    refused = [each for each in found if isinstance(each, Refused)]
    assert (refused[0].line, reason in refused[0].reason) == (line, True), refused
    if "required" not in text:
        assert [each.name for each in found if isinstance(each, FalcoRule)] == ["Good"]


def test_rule_of_a_broken_macro_or_list_is_refused_too() -> None:
    """A list that lost its values would change what a rule means."""
    found = reasons("- list: names\n  items: 1\n- macro: tool\n  condition: proc.name in (names)\n" + RULE)
    assert any("A rule: macro tool: the list names is refused" in each for each in found)


def test_macros_in_circles_and_explosions_are_refused() -> None:
    """Appending lets two macros see each other; doubling thirty times is a billion comparisons."""
    circle = ("- macro: tool\n  condition: proc.name = x\n- macro: b\n  condition: tool\n"
              "- macro: tool\n  append: true\n  condition: or b\n")
    assert any("made of itself" in each for each in reasons(circle + RULE))
    doubling = "- macro: m0\n  condition: proc.name = x or proc.name = y\n" + "".join(
        f"- macro: m{number}\n  condition: m{number - 1} and m{number - 1}\n" for number in range(1, 31))
    assert any("more than 10000 parts" in each for each in reasons(doubling + rule_text("m30")))
    lists = "- list: l0\n  items: [l1]\n- list: l1\n  items: [l0]\n- list: l0\n  items: [l1, a]\n  append: true\n"
    assert fires(load(lists + rule_text("evt.type = execve and proc.name in (l0)")), "a") == ["A rule"]


def test_other_sources_and_missing_fields_are_unsupported_with_their_line() -> None:
    """Named, not refused; nor is a rule that may be skipped."""
    other, lacking, skipped = load(
        rule_text("ka.verb = get", "K", "source: k8s_audit")
        + rule_text("evt.type = execve and proc.fdopencount < 5", "D")
        + rule_text("made.up = x", "S", "skip-if-unknown-filter: true\nwarn_evttypes: false"))
    assert isinstance(other, FalcoUnsupported)
    assert str(other) == "rules0.yaml:1: K: events of source k8s_audit are not read; only syscall is"
    assert str(lacking) == "rules0.yaml:8: D: our events don't carry proc.fdopencount"
    assert "Falco has no field made.up, and skip-if-unknown-filter is set" in str(skipped)


def test_disjunct_that_is_not_carried_is_left_out_and_told() -> None:
    """What remains fires; what hangs on a field or type that never comes doesn't."""
    made = rule("(evt.type in (execve, dup) and (proc.name = a or proc.fdopencount < 5)) or evt.type = socket")
    assert made.events == ("process-exec",)
    assert "proc.fdopencount" in made.notes[0]
    assert made.notes[1] == "no event of ours is of type dup, socket"
    assert (fires([made], "a"), fires([made], "b")) == (["A rule"], [])


def test_exception_for_a_field_that_is_not_carried_stays_silent_rather_than_noisy() -> None:
    """A field that Falco always has is unknown; one that runtimes give is absent, as it may be in Falco."""
    unknown = load(rule_text("evt.type = execve and not proc.fdopencount < 5"))
    assert "proc.fdopencount" in str(unknown[0])
    optional = rule("evt.type = execve and proc.name = a and not container.image.repository = x")
    assert fires([optional], "a") == ["A rule"]
    assert load(rule_text("evt.type = execve and container.image.repository != x"))[0] == FalcoUnsupported(
        "rules0.yaml", "A rule", "source=syscall", "our events don't carry container.image.repository", 1)


def test_plugins_are_told_unless_their_fields_are_ours() -> None:
    """container is; json is not."""
    found = reasons("- required_plugin_versions:\n  - {name: container, version: 0.4.0}\n"
                    "  - {name: json, version: 0.7.0}\n")
    assert len(found) == 1
    assert found[0].startswith("rules0.yaml:3: required_plugin_versions: no plugin is loaded, nor json: ")


def test_alert_has_the_message(tmp_path: Path) -> None:
    """Fields and arguments are filled in; what has no value is <NA>."""
    output = "Seen %proc.name did 100%% of %proc.args for %user.name below %proc.aname[2] (%proc.pname) at"
    made = rule("evt.type = execve", output=output + " %container.id file=%fd.name %evt.type %proc.aname[9]")
    event = Host().run("nc", "-l", "9", parents=("sshd", "bash"))[1]
    assert alert(event, made)["message"] == (
        "Seen nc did 100% of -l 9 for root below sshd (bash) at host file=<NA> execve <NA>")


def test_message_is_bounded_and_harmless() -> None:
    """A long argument is cut, a long message too; no control character comes through."""
    event = Host().run("nc", "\x1b[31m" + "x" * 9000)[1]
    message = render("%proc.args" * 100, event)
    assert len(message) == MAX_MESSAGE
    assert message.isprintable()
    assert len(render("%proc.args", event)) == MAX_VALUE
    assert render("%proc.name.x %nothing %", event) == "<NA> %nothing %"


def test_message_shows_login_and_session_as_falco_does() -> None:
    """An unset login is -1, the session leader is called by its name."""
    event = Host().run("nc", login_uid=0xFFFFFFFF, session_pid=101)[1]
    assert render("%user.loginuid %proc.sname %proc.exepath", event) == "-1 nc /usr/bin/nc"


def test_message_shows_both_ends_of_a_connection() -> None:
    """Own and other end by direction."""
    host = Host()
    event = host.connects(host.run("nc")[0], "203.0.113.9", 80, result=-111)
    assert render("%fd.name %fd.lport %fd.rport %fd.sip %evt.res %fd.type", event) == (
        "192.0.2.7:40000->203.0.113.9:80 40000 80 203.0.113.9 ECONNREFUSED ipv4")


def test_files_are_told_by_content_and_taken_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One directory with both languages: check sums them, and a local file changes the rules of the one before."""
    (tmp_path / "1.yaml").write_text(LIST + MACRO + RULE)
    (tmp_path / "2.yaml").write_text("- list: names\n  append: true\n  items: [ls]\n")
    (tmp_path / "3.yml").write_text("title: T\nlogsource: {product: linux, category: process_creation}\n"
                                    "detection: {s: {Image: /bin/x}, condition: s}\n")
    rules = content.load(content.discover([str(tmp_path)]))
    assert fires(list(rules.rules), "ls") == ["A rule"]
    (tmp_path / "4.yaml").write_text(rule_text("evt.type = execve and (proc.name = a or proc.fdopencount < 1)", "P"))
    assert call(["rules", "check", str(tmp_path)]) == 0
    first, partial = capsys.readouterr().out.splitlines()
    assert first == "3 of 3 rules loaded, 0 refused, 0 unsupported"
    lacks = "not carried, so what hangs on it is left out: proc.fdopencount"
    assert partial == f"partial: {tmp_path}/4.yaml:1: P: {lacks}"
    assert call(["rules", "check", "--json", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["partial"][0]["line"] == 1


def test_samples_and_explain_work_for_falco_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The samples beside the file, in the words of our events."""
    path = tmp_path / "rules.yaml"
    path.write_text(LIST + MACRO + RULE)
    (tmp_path / "rules.samples.yaml").write_text(
        "positive: [{event: process_exec, Image: /bin/nc}]\nnegative: [{event: process_exec, Image: /bin/cat}]\n")
    assert call(["rules", "test", "--strict", str(path)]) == 0
    capsys.readouterr()
    assert call(["rules", "explain", str(path)]) == 0
    assert "output: what happened" in capsys.readouterr().out


def test_convert_writes_sigma_and_says_what_it_leaves_out(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 where all was said, 1 where something is missing, 2 for a refused rule; 2 for no Falco at all."""
    path = tmp_path / "rules.yaml"
    path.write_text(LIST + MACRO + RULE)
    assert call(["rules", "convert", str(path)]) == 0
    (tmp_path / "out.yml").write_text(capsys.readouterr().out)
    rules = content.load(content.discover([str(tmp_path / "out.yml")]))
    assert [each.name for each in rules.rules] == ["A rule"]
    path.write_text(RULE.replace("tool", "proc.name = a") + rule_text("evt.type = clone", "F"))
    assert call(["rules", "convert", str(path)]) == 1
    assert "F: no log source of Sigma has the event process-fork" in capsys.readouterr().err
    path.write_text(rule_text("oops"))
    assert call(["rules", "convert", str(path)]) == 2
    assert call(["rules", "convert", str(tmp_path / "out.yml")]) == 2


_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(0, 1), st.sampled_from([
    "a", "names", "tool", "evt.type = execve", "and proc.name = a", "tool or tool", "append", "replace", "syscall",
    "WARNING", "proc.name", "in", "proc.name in (names)", "'x", "(a, b)", "0.57.0", "%proc.name", "evt.arg.flags",
    "container", "proc.aname[2]", "proc.name exists", "not not (a", ""]))
_ANYTHING = st.recursive(_SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "fields", "comps", "values", "version"]),
                                                 inner, max_size=4)), max_leaves=6)
_KEYS = st.sampled_from(["rule", "macro", "list", "condition", "items", "append", "override", "exceptions", "tags",
                         "output", "desc", "priority", "enabled", "source", "required_engine_version",
                         "required_plugin_versions", "skip-if-unknown-filter", "colour"])
_WHOLE = {"rule": "A rule", "condition": "evt.type = execve", "desc": "", "output": "", "priority": "INFO"}


@settings(max_examples=300)
@given(st.lists(st.one_of(
    st.dictionaries(_KEYS, _ANYTHING, max_size=5),
    st.dictionaries(_KEYS, _ANYTHING, max_size=2).map(lambda item: {**_WHOLE, **item}), _ANYTHING), max_size=4))
def test_any_items_become_rules_or_reasons(items: list[object]) -> None:
    """Whatever a file holds, nothing is raised, and each result says what it is."""
    for found in load(yaml.safe_dump(items), yaml.safe_dump(items)):
        assert found.path
        assert str(found)


def test_too_many_values_are_refused() -> None:
    """In one rule, and in all rules together."""
    names = "- list: names\n  items: [" + ", ".join(f"n{number}" for number in range(9_000)) + "]\n"
    assert isinstance(load(names + rule_text("evt.type = execve and proc.pname in (names)"))[0], FalcoRule)
    assert "more than 10000 parts" in reasons(names + rule_text("proc.name in (names) or proc.pname in (names)"))[0]
    many = "".join(rule_text("evt.type = dup and proc.pname in (names)", f"R{number}") for number in range(60))
    assert "more than 400000 parts together" in reasons(names + many)[-1]
