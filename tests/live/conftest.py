"""Fixtures of the live tests: compiled workloads, one sensor shared by all tests that leave it whole."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.harness import Sensor, Workloads

HERE = Path(__file__).parent


def missing() -> str | None:
    """What this host lacks for live tests."""
    if os.geteuid() != 0:
        return "live tests load programs into the kernel: run them as root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "this kernel has no BTF (/sys/kernel/btf/vmlinux)"
    if importlib.util.find_spec("bcc") is None:
        return "this Python has no bcc: install python3-bpfcc and use system site packages"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    # Tests with a sensor of their own, or with a flood, come before the shared sensor starts: it would
    # see all that they do.
    items.sort(key=lambda item: item.path.is_relative_to(HERE) and "sensor" in getattr(item, "fixturenames", ()))
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.live)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def workloads(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Workloads:
    cache = getattr(pytestconfig, "cache", None)  # -p no:cacheprovider
    return Workloads(cache.mkdir("workloads") if cache else tmp_path_factory.mktemp("workloads"))


@pytest.fixture(scope="session")
def sensor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sensor]:
    """A running sensor with the default rules and all events in its output. Tests must not harm it."""
    with Sensor(tmp_path_factory.mktemp("sensor")) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory with an absolute path free of symbolic links."""
    directory = tmp_path.resolve() / "place"
    directory.mkdir()
    return directory
