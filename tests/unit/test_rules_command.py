"""``sensor rules``: output and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensor.cli import call

NC = """title: Netcat started
id: 00000000-0000-4000-8000-000000000001
level: high
logsource: {product: linux, category: process_creation}
detection: {s: {Image|endswith: /nc}, f: {User: root}, condition: s and not f}
"""
BAD = ("title: Typo\nlogsource: {product: linux, category: process_creation}\n"
       "detection:\n  s: {Imag: a}\n  condition: s\n")
OTHER = "title: Other\nlogsource: {product: windows}\ndetection: {s: {EventID: 1}, condition: s}\n"
SAMPLES = "positive: [{event: process_exec, Image: /bin/nc}]\nnegative: [{event: process_exec, Image: /bin/cat}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nc.yml").write_text(NC)
    (tmp_path / "nc.samples.yml").write_text(SAMPLES)
    return tmp_path


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command line."""
    status = call(["rules", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_check_counts_and_names(capsys, folder):
    """Loaded, refused and unsupported, each with its reason; a refused rule is status 2."""
    assert run(capsys, "check", folder)[:2] == (0, "1 of 1 rules loaded, 0 refused, 0 unsupported\n")
    (folder / "bad.yml").write_text(BAD)
    (folder / "other.yml").write_text(OTHER)
    status, out, _ = run(capsys, "check", folder)
    assert status == 2
    first, refused, unsupported = out.splitlines()
    assert first == "1 of 3 rules loaded, 1 refused, 1 unsupported"
    assert refused == f"refused: {folder}/bad.yml:4: Typo: unknown field Imag (did you mean Image?)"
    assert unsupported.startswith(f"unsupported: {folder}/other.yml: Other: events of product windows")


def test_check_as_json(capsys, folder):
    """The promised shape."""
    (folder / "bad.yml").write_text(BAD)
    (folder / "other.yml").write_text(OTHER)
    status, out, _ = run(capsys, "check", "--json", folder)
    assert status == 2
    assert json.loads(out) == {
        "loaded": 1, "correlations": 0, "filters": 0,
        "reasons": {"unknown field Imag (did you mean Image?)": 1,
                    "events of product windows don't come from Linux": 1},
        "partial": [],
        "refused": [{"path": f"{folder}/bad.yml", "line": 4, "rule": "Typo",
                     "reason": "unknown field Imag (did you mean Image?)"}],
        "unsupported": [{"path": f"{folder}/other.yml", "rule": "Other", "logsource": "product=windows",
                         "reason": "events of product windows don't come from Linux"}],
    }


def test_check_without_paths_takes_the_default_rules(capsys):
    """All of them load."""
    status, out, _ = run(capsys, "check", "--json")
    assert status == 0
    assert json.loads(out)["loaded"] >= 40


def test_path_that_is_not_there_is_status_2(capsys):
    """A message on stderr, nothing on stdout."""
    status, out, err = run(capsys, "check", "/nowhere")
    assert (status, out) == (2, "")
    assert "/nowhere: no such file or directory" in err


def test_control_characters_of_a_rule_never_reach_the_terminal(capsys, folder):
    """What a rule file says is shown escaped."""
    (folder / "bad.yml").write_text('title: "a\\e[2Jb"\nlogsource: {product: windows}\n')
    for arguments in (("check",), ("test",), ("explain", "a\x1b[2Jb")):
        _, out, err = run(capsys, *arguments, folder)
        assert "\x1b" not in out + err
    assert "\\x1b[2Jb" in err


def test_libraries_say_nothing_of_a_rule_beside_us(capfd, tmp_path):
    """RE2 used to write a wrong expression to standard error as it stood, escape sequences too."""
    (tmp_path / "a.yml").write_text(
        "title: A\nlogsource: {product: linux, category: process_creation}\n"
        'detection:\n  s: {User|re: "\\e]0;x(a))*"}\n  condition: s\n')
    status, out, err = run(capfd, "check", tmp_path)
    assert (status, err) == (2, "")
    assert "a.yml:4" in out
    assert "unexpected )" in out
    assert "\x1b" not in out


def test_test_runs_samples(capsys, folder):
    """Passed is 0; a failed sample 1; a refused one 2; missing ones are reported, and fail if strict."""
    assert run(capsys, "test", "--strict", folder)[0] == 0
    (folder / "nc.samples.yml").write_text(SAMPLES.replace("cat", "nc"))
    status, out, _ = run(capsys, "test", folder)
    assert status == 1
    assert f"failed: {folder}/nc.samples.yml:2: Netcat started: matches a negative sample" in out
    (folder / "nc.samples.yml").write_text("positive: [{event: x}]")
    assert run(capsys, "test", folder)[0] == 2
    (folder / "nc.samples.yml").unlink()
    status, out, _ = run(capsys, "test", folder)
    assert status == 0
    assert f"no positive and negative samples: {folder}/nc.yml" in out
    assert run(capsys, "test", "--strict", folder)[0] == 1
    answer = json.loads(run(capsys, "test", "--json", folder)[1])
    assert answer == {"rules": 1, "passed": 0, "missing": [f"{folder}/nc.yml"], "failed": [], "refused": []}


def test_list(capsys, folder):
    """A line per rule; as JSON all of its facts."""
    (folder / "bad.yml").write_text(BAD)
    status, out, err = run(capsys, "list", folder)
    assert status == 0
    assert " ".join(out.split()) == "high 00000000-0000-4000-8000-000000000001 process_creation Netcat started"
    assert "1 more are refused or unsupported" in err
    (facts,) = json.loads(run(capsys, "list", "--json", folder)[1])
    assert facts["events"] == ["process-exec"]
    assert facts["fields"] == ["process.executable", "user.name"]


EXPLAINED = """  condition:
    all of
      process.executable ends with '/nc'
      not
        user.name equals 'root'
"""


@pytest.mark.parametrize("wanted", ["file", "Netcat started", "00000000-0000-4000-8000-000000000001"])
def test_explain_finds_a_rule_by_file_title_or_id(capsys, folder, wanted):
    """The tree, the events and the fields."""
    status, out, _ = run(capsys, "explain", *([folder / "nc.yml"] if wanted == "file" else [wanted, folder]))
    assert status == 0
    assert out.startswith("Netcat started  (high, 00000000-0000-4000-8000-000000000001)\n")
    assert "  events: process-exec\n  fields: process.executable, user.name\n" in out
    assert EXPLAINED in out


def event(action: str, image: str, user: str) -> str:
    return json.dumps({"event": {"action": action, "id": user, "kind": "event"}, "process": {"executable": image},
                       "user": {"name": user}})


def test_explain_shows_the_truth_of_each_part(capsys, folder):
    """Why an event matched and another didn't; status 1 if none does."""
    events = folder / "events.jsonl"
    events.write_text(event("process-exec", "/bin/nc", "root") + "\n" + event("process-exit", "/bin/nc", "bob") + "\n")
    status, out, _ = run(capsys, "explain", folder / "nc.yml", "--event", events)
    assert status == 1
    assert ("event root: no match\n  false  all of\n  true     process.executable ends with '/nc'\n"
            "  false    not\n  true       user.name equals 'root'\n") in out
    assert "event bob: no match: process-exit is not among the rule's events (process-exec)" in out
    events.write_text(event("process-exec", "/bin/nc", "bob") + "\n")
    status, out, _ = run(capsys, "explain", "--json", folder / "nc.yml", "--event", events)
    assert status == 0
    (answer,) = json.loads(out)
    assert answer["on"][0]["match"] is True
    assert answer["on"][0]["condition"] == {"true": True, "all": [
        {"true": True, "predicate": "process.executable ends with '/nc'"},
        {"true": True, "not": {"true": False, "predicate": "user.name equals 'root'"}}]}


def test_explain_of_a_read_says_why_it_is_no_file_event(capsys, folder):
    """The condition may hold where the event isn't one of the log source."""
    (folder / "f.yml").write_text("title: F\nlogsource: {category: file_event}\n"
                                  "detection: {s: {Image: /bin/nc}, condition: s}\n")
    events = folder / "events.jsonl"
    events.write_text(json.dumps({"event": {"action": "file-open", "type": ["access"], "kind": "event"},
                                  "process": {"executable": "/bin/nc"}}))
    status, out, _ = run(capsys, "explain", folder / "f.yml", "--event", events)
    assert status == 1
    assert "the condition holds, but this file-open is no file_event" in out


@pytest.mark.parametrize(("arguments", "message"), [
    (("Nothing",), "no rule 'Nothing'"), (("Typo",), "not loaded:"), (("Other",), "not loaded:"),
    (("Netcat started", "--event", "/dev/null"), "no event in it")])
def test_explain_of_what_is_not_there_is_status_2(capsys, folder, arguments, message):
    """A rule that is refused is answered with its reason."""
    (folder / "bad.yml").write_text(BAD)
    (folder / "other.yml").write_text(OTHER)
    status, _, err = run(capsys, "explain", arguments[0], folder, *arguments[1:])
    assert status == 2
    assert message in err
