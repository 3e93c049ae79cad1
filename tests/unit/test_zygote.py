"""Rules parsed by processes that somebody else starts: the same rules, the same errors, nothing left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from tests.conftest import ROOT

_ENGINE = """
import json, os, sys
from sensor import hardening, rulechild
from sensor.resources import rules_dir
from sensor.rules import files
from sensor.rules.model import Options
from sensor.zygote import Zygote
rulechild.WALL_SECONDS = 600.0
if len(sys.argv) > 1:
    rulechild.ENTRY = "tests.unit.hostile_child"
before = os.listdir("/proc/self/fd")
zygote = Zygote()
hardening.calls()
def compiled(gathered, seconds=None):
    try:
        child = rulechild.Child(gathered, Options(), starter=zygote.start)
        return rulechild.checked(child.result(seconds)).loaded
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""
_RULES = _ENGINE + """
found = files.gather(files.discover([str(rules_dir())]))
first = compiled(found)
print(json.dumps({"loaded": [first, compiled(found)], "expected": len(files.discover([str(rules_dir())])),
                  "fds": len(os.listdir("/proc/self/fd")) - len(before)}))
"""
_HOSTILE = _ENGINE + """
from tests.unit import hostile_child
def one(how):
    return files.Gathered((files.File("0.yml", (hostile_child.HOW + how).encode()),))
print(json.dumps({how: compiled(one(how), 2.0 if how == "hang" else None) for how in ("crash", "hang", "lie")}))
"""
_DEAD = _ENGINE + """
zygote._channel.shutdown(2)
print(json.dumps({"reason": compiled(files.Gathered(()))}))
"""
_LEFT = _ENGINE + """
print(json.dumps({"zygote": open(f"/proc/self/task/{os.getpid()}/children").read().split()}), flush=True)
os._exit(0)
"""


def engine(code: str, *arguments: str) -> dict[str, Any]:
    """What an engine prints that runs this."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=900)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_engine_that_may_start_nothing_gets_its_rules() -> None:
    """Twice, with all default rules, and no descriptor is left behind but the zygote's."""
    found = engine(_RULES)
    assert found["loaded"][0] == found["loaded"][1] >= 100
    assert found["fds"] == 1


def test_a_child_that_goes_wrong_there_is_one_error_here() -> None:
    """Crash, standstill, a wrong answer: as if the engine had started it."""
    found = engine(_HOSTILE, "hostile")
    assert "ended by signal 11" in found["crash"]
    assert "took more than" in found["hang"]
    assert "made something else" in found["lie"]


def test_without_a_zygote_there_is_no_process() -> None:
    """It says nothing about the rules."""
    assert engine(_DEAD)["reason"].startswith("NoChild: no process could be started")


def test_the_zygote_does_not_outlive_its_engine() -> None:
    """However that ended."""
    [pid] = engine(_LEFT)["zygote"]
    end = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
