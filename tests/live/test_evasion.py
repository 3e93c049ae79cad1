"""A secret read under another name: the event names the file that was really opened."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.harness import Document, Sensor, action, alerts, get

SECRET = Path("/etc/shadow")


@pytest.fixture
def hard_link() -> Iterator[Path]:
    """Another name of the secret, beside it: hard links don't leave the file system."""
    link = SECRET.with_name(f".sensor-test-{uuid.uuid4().hex[:8]}")
    os.link(SECRET, link)
    try:
        yield link
    finally:
        link.unlink()


def _read(sensor: Sensor, *command: str) -> tuple[Document, list[Document]]:
    """Open of the secret's inode below *command*, and the alerts for it."""
    facts = SECRET.stat()
    device = os.major(facts.st_dev) << 20 | os.minor(facts.st_dev)

    def act() -> int:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        assert child.wait() == 0
        return child.pid

    pid, documents = sensor.watch(act)
    opened = [
        d
        for d in documents
        if action(d) == "file-open"
        and (get(d, "file.inode"), get(d, "file.device")) == (facts.st_ino, device)
        and pid in (get(d, "process.pid"), get(d, "process.parent.pid"))
        and get(d, "event.kind") == "event"
    ]
    assert len(opened) == 1, f"opens of {SECRET}: {opened}"
    return opened[0], [d for d in alerts(documents) if get(d, "event.id") == get(opened[0], "event.id")]


@pytest.mark.parametrize(
    "spelling",
    ["/proc/self/root/etc/shadow", "/etc/../etc/./shadow", "/proc/self/cwd/../etc/shadow", "//etc///shadow"],
)
def test_other_spellings_of_the_path_alert_like_the_plain_one(sensor: Sensor, spelling: str) -> None:
    """/proc/self/root, dots and slashes don't matter: the path is the kernel's."""
    seen, raised = _read(sensor, "/bin/sh", "-c", f"cd /usr; cat {spelling}; true")
    assert get(seen, "file.path") == str(SECRET)
    assert "T1003.008" in {t for d in raised for t in get(d, "threat.technique.id", ())}


def test_symbolic_link_alerts_like_the_plain_path(sensor: Sensor, place: Path) -> None:
    """The link's name is nowhere; the file's is."""
    link = place / "harmless"
    link.symlink_to(SECRET)
    seen, raised = _read(sensor, "/bin/cat", str(link))
    assert get(seen, "file.path") == str(SECRET)
    assert "T1003.008" in {t for d in raised for t in get(d, "threat.technique.id", ())}


def test_reopening_a_path_descriptor_alerts_like_the_plain_path(sensor: Sensor) -> None:
    """O_PATH alone reads nothing; opening /proc/self/fd of it does."""
    code = "import os; fd = os.open('/etc/shadow', os.O_PATH); os.read(os.open(f'/proc/self/fd/{fd}', 0), 1)"
    seen, raised = _read(sensor, "/usr/bin/python3", "-c", code)
    assert get(seen, "file.path") == str(SECRET)
    assert raised


def test_hard_link_to_a_secret_is_seen_by_its_inode(sensor: Sensor, hard_link: Path) -> None:
    """Another name in another directory is the same file."""
    seen, _ = _read(sensor, "/bin/cat", str(hard_link))
    assert get(seen, "file.path") == str(hard_link)


def test_bind_mount_of_a_secret_is_seen_by_its_inode(sensor: Sensor, place: Path) -> None:
    """A mount namespace of its own shows the file under another path."""
    bound = place / "innocent"
    bound.touch()
    script = f"mount --bind {SECRET} {bound} && cat {bound}"
    seen, _ = _read(sensor, "/usr/bin/unshare", "-m", "/bin/sh", "-c", f"{script}; true")
    assert get(seen, "file.path") in (str(SECRET), str(bound))


def test_secret_read_from_a_chroot_is_seen(sensor: Sensor, place: Path) -> None:
    """Another root directory does not hide the file."""
    code = "import os; os.chroot('/etc'); os.chdir('/'); os.read(os.open('/shadow', os.O_RDONLY), 1)"
    seen, raised = _read(sensor, "/usr/bin/python3", "-c", code)
    assert get(seen, "file.path") == str(SECRET)
    assert raised
