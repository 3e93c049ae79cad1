"""The C extension as these sources make it, for tests: never one that happens to lie in the checkout.

With sanitizers: SENSOR_TEST_CFLAGS='-fsanitize=address,undefined -fno-sanitize-recover=all' in the environment,
and LD_PRELOAD="$(gcc -print-file-name=libasan.so)", PYTHONMALLOC=malloc, ASAN_OPTIONS=detect_leaks=0.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

#: Memories that are full after a few events.
TINY = ("-DDECISIONS=3u", "-DCLASSES=5u", "-DPATHS=2u", "-DWATCHED=2u", "-DIMAGES=2u", "-DSETS=2u",
        "-DCELLS=3")
_folder = tempfile.TemporaryDirectory(prefix="sensor-native-")


@functools.cache
def extension(*flags: str) -> ModuleType:
    """Build with every warning an error and load; skips where there is no compiler or no headers."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no Python.h: install python3-dev to test the C extension")
    flags = (*flags, *shlex.split(os.environ.get("SENSOR_TEST_CFLAGS", "")))
    into = Path(_folder.name, str(abs(hash(flags))))
    into.mkdir()
    try:
        done = subprocess.run([ROOT / "tools/native", "--into", into, "--strict", *flags], capture_output=True,
                              text=True, check=False)
    except OSError as error:
        pytest.skip(f"the C extension can't be built: {error}")
    if done.returncode and "No such file or directory: 'cc'" in done.stderr:
        pytest.skip("no C compiler: install gcc to test the C extension")
    assert done.returncode == 0, done.stderr
    (path,) = into.glob("_speed*.so")
    loader = importlib.machinery.ExtensionFileLoader("sensor._speed", str(path))
    spec = importlib.util.spec_from_file_location("sensor._speed", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
