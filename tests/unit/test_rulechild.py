"""Rules are read by a process that may do little, and nothing that it does harms the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sensor import rulechild
from sensor.errors import UsageError
from sensor.resources import rules_dir
from sensor.rules import content, files
from sensor.rules.model import Options
from tests.conftest import ROOT
from tests.unit import hostile_child

RULE = """\
title: A rule
logsource: {product: linux, category: process_creation}
detection:
    selection: {Image|expand: "%tools%"}
    condition: selection
"""


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with other work to do is no fault of a child."""
    monkeypatch.setattr(rulechild, "WALL_SECONDS", 1200.0)


def gathered(*texts: str) -> files.Gathered:
    return files.Gathered(tuple(files.File(f"{number}.yml", text.encode()) for number, text in enumerate(texts)))


def test_child_reads_what_this_process_reads() -> None:
    """The default rules, correlations and all; and the data is what a cache may keep."""
    found = files.gather(files.discover([str(rules_dir())]))
    rules, data = rulechild.compile_rules(found, Options())
    assert rules == content.compile_rules(found)
    assert rulechild.checked(data) == rules


def test_child_knows_placeholders_and_pipelines(tmp_path: Path) -> None:
    """Settings that rules are read with go along."""
    pipeline = tmp_path / "p.yml"
    pipeline.write_text("transformations: [{type: field_name_mapping, mapping: {Program: Image}}]\n")
    (tmp_path / "r.yml").write_text(RULE.replace("Image", "Program"))
    found = files.gather(files.discover([str(tmp_path / "r.yml")]), [str(pipeline)])
    options = Options({"tools": ("/bin/nc",)}, (str(pipeline),))
    rules, _ = rulechild.compile_rules(found, options)
    assert rules.loaded == 1
    assert rules == content.compile_rules(found, options=options)


def test_an_error_in_a_pipeline_comes_with_its_place() -> None:
    """As if there were no other process."""
    found = files.Gathered((), (files.File("/etc/sensor/p.yml", b"a: [\n"),))
    with pytest.raises(UsageError, match=r"^/etc/sensor/p\.yml:2: "):
        rulechild.compile_rules(found, Options({}, ("/etc/sensor/p.yml",)))


@pytest.mark.parametrize("text", ["[" * 50_000, "{" * 50_000, "a: " * 20_000, "- " * 50_000,
                                  "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
                                  "detection:\n  condition: " + "(" * 50_000, "\0" * 1000])
@pytest.mark.contract("content-7a")
def test_files_made_to_harm_parsers_are_refused_and_the_others_are_read(text: str) -> None:
    """50 KB of brackets, aliases of aliases."""
    good = RULE.replace('Image|expand: "%tools%"', "Image: x")
    rules, _ = rulechild.compile_rules(gathered(text, good), Options())
    assert [rule.name for rule in rules.rules] == ["A rule"]
    assert {refused.path for refused in rules.refused} == {"0.yml"}


@pytest.mark.parametrize(("how", "reason"), [
    ("crash", "ended by signal 11"), ("hang", "took more than"), ("spin", "too much processor time"),
    ("fill", "need more than 300 MB"), ("flood", "ended by status 1"), ("lie", "made something else"),
    ("bomb", "made something else"), ("talk", r"reading the rules failed: .*\\x1b"), ("vanish", "made something else")])
@pytest.mark.contract("content-7a")
def test_a_child_that_goes_wrong_is_one_error(how: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crash, standstill, busy loop, memory, too long an answer, a wrong one, none."""
    monkeypatch.setattr(rulechild, "ENTRY", hostile_child.__name__)
    if how == "hang":
        monkeypatch.setattr(rulechild, "WALL_SECONDS", 2.0)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match=reason) as caught:
        rulechild.checked(rulechild.Child(gathered(hostile_child.HOW + how), Options()).result(
            2.0 if how == "hang" else None))
    assert len(str(caught.value)) < 5000
    assert caught.value.exit_status == (1 if how == "hang" else 2)  # after 2 systemd doesn't start it again
    assert set(os.listdir("/proc/self/fd")) <= before


ATTEMPTS = """\
import json, os, socket, subprocess, sys
from sensor import confine
done = {}
def attempt(name, action):
    try:
        action()
        done[name] = "done"
    except OSError as error:
        done[name] = error.errno
    except ValueError:  # what setrlimit() makes of EPERM
        done[name] = 1
import ctypes, resource
target = sys.argv[1]
confine.memory_and_files()
confine.cpu_time()
confine.calls()
attempt("read", lambda: open(target).read())
attempt("network", lambda: socket.socket())
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("write", lambda: open(target, "w"))
attempt("make", lambda: open(target + ".new", "x"))
attempt("remove", lambda: os.unlink(target))
attempt("rename", lambda: os.rename(target, target + ".old"))
attempt("fork", lambda: os.fork() or os._exit(0))
attempt("run", lambda: os.execv("/bin/true", ["true"]))
attempt("kill", lambda: os.kill(int(sys.argv[2]), 0))
attempt("limits", lambda: resource.setrlimit(7, (10, 10)))
libc = ctypes.CDLL(None, use_errno=True)
def trace():
    if libc.ptrace(16, int(sys.argv[2]), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "")
attempt("trace", trace)
print(json.dumps(done))
"""


@pytest.mark.contract("content-7a")
def test_a_confined_process_reads_and_does_nothing_else(tmp_path: Path) -> None:
    """No network, no other process, no writing; as root too."""
    target = tmp_path / "file"
    target.write_text("content")
    ran = subprocess.run([sys.executable, "-c", ATTEMPTS, str(target), str(os.getpid())], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    done = json.loads(ran.stdout)
    assert done.pop("read") == "done"
    assert done == dict.fromkeys(done, 1)
    assert len(done) == 11
    assert target.read_text() == "content"


def test_without_a_process_to_spare_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start then reads rules itself; a reload says so and changes nothing."""
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(rulechild.NoChild, match="no process could be started"):
        rulechild.Child(gathered("x"), Options())
    assert set(os.listdir("/proc/self/fd")) <= before
