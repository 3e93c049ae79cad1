"""What tests share: the place of outside test material, and who may run live."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine is at times ten times slower than itself: time is no property of the code here.
settings.register_profile("sensor", deadline=None)
settings.load_profile("sensor")

ROOT = Path(__file__).resolve().parent.parent


def outside_data(*parts: str) -> Path:
    """Where outside test material would be: next to the checkout, or in SENSOR_TEST_DATA."""
    home = os.environ.get("SENSOR_TEST_DATA")
    return (Path(home) if home else ROOT.parent / "shared" / "data").joinpath(*parts)


def shared_data(*parts: str) -> Path:
    """Path of outside test material; skips the test, by name, where it is absent."""
    path = outside_data(*parts)
    if not path.exists():
        pytest.skip(f"outside test material is absent: {'/'.join(parts)}")
    return path


def prometheus_tool(name: str) -> str:
    """Path of a program of Prometheus; skips the test, by name, where neither tools/setup nor the host has it."""
    path = str(ROOT / ".venv" / "prometheus" / "usr" / "bin") + os.pathsep + os.environ.get("PATH", os.defpath)
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is absent: tools/setup test fetches it where there is apt")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("live") or item.get_closest_marker("vm"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(autouse=True, scope="session")
def cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compiled rules of the tests don't mix with those of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache", numbered=True)
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield home
