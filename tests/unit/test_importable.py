"""Imports after the way to the code has been closed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CHILD = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from sensor import importable
import outer
if sys.argv[3] == "keep":
    descriptors = importable.keep()
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
import outer.late.inner, single
print(outer.late.inner.WORD, single.WORD, sys.path[1] == sys.argv[2])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
@pytest.mark.parametrize("way", ["keep", "leave"])
def test_packages_below_a_closed_directory_are_imported_after_the_drop(tmp_path, way):
    """Sub-packages of what was imported and new modules load; without keep() the same import fails."""
    place = tmp_path / "closed" / "code"
    (place / "outer" / "late").mkdir(parents=True)
    (place / "outer/__init__.py").write_text("")
    (place / "outer/late/__init__.py").write_text("")
    (place / "outer/late/inner.py").write_text("WORD = 'inner'\n")
    (place / "single.py").write_text("WORD = 'single'\n")
    (tmp_path / "closed").chmod(0o700)
    done = subprocess.run([sys.executable, "-I", "-B", "-c", CHILD, ROOT, place, way], capture_output=True, text=True,
                          check=False)
    if way == "keep":
        assert done.stdout == "inner single False\n", done.stderr
    else:
        assert "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr


def test_open_places_are_left_as_they_are():
    """Where everybody may pass, paths stay readable for people."""
    code = ("import sys\nfrom sensor import importable\n"
            "sys.path[:] = before = [entry for entry in sys.path if entry.startswith('/usr/')]\n"
            "assert before and importable.keep() == [] and sys.path == before")
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/", env={"PYTHONPATH": f"{ROOT}:/usr/share"})
