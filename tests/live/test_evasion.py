"""A secret read under another name: the event names the file that was really opened."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.live.harness import ROOT, Document, Sensor, Workloads, action, alerts, flags, get, of_kind

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
@pytest.mark.hostile("odd-path")
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


@pytest.mark.hostile("odd-path")
def test_reopening_a_path_descriptor_alerts_like_the_plain_path(sensor: Sensor) -> None:
    """O_PATH alone reads nothing; opening /proc/self/fd of it does."""
    code = "import os; fd = os.open('/etc/shadow', os.O_PATH); os.read(os.open(f'/proc/self/fd/{fd}', 0), 1)"
    seen, raised = _read(sensor, "/usr/bin/python3", "-c", code)
    assert get(seen, "file.path") == str(SECRET)
    assert raised


@pytest.mark.hostile("odd-path")
def test_hard_link_to_a_secret_is_seen_by_its_inode(sensor: Sensor, hard_link: Path) -> None:
    """Another name in another directory is the same file."""
    seen, _ = _read(sensor, "/bin/cat", str(hard_link))
    assert get(seen, "file.path") == str(hard_link)


@pytest.mark.hostile("odd-path")
def test_bind_mount_of_a_secret_is_seen_by_its_inode(sensor: Sensor, place: Path) -> None:
    """A mount namespace of its own shows the file under another path."""
    bound = place / "innocent"
    bound.touch()
    script = f"mount --bind {SECRET} {bound} && cat {bound}"
    seen, _ = _read(sensor, "/usr/bin/unshare", "-m", "/bin/sh", "-c", f"{script}; true")
    assert get(seen, "file.path") in (str(SECRET), str(bound))


@pytest.mark.hostile("other-namespace")
def test_secret_read_from_a_chroot_is_seen(sensor: Sensor, place: Path) -> None:
    """Another root directory does not hide the file."""
    code = "import os; os.chroot('/etc'); os.chdir('/'); os.read(os.open('/shadow', os.O_RDONLY), 1)"
    seen, raised = _read(sensor, "/usr/bin/python3", "-c", code)
    assert get(seen, "file.path") == str(SECRET)
    assert raised


# --- every way that the workload `ways` knows -----------------------------------------------------

TIMES = 7
RECEIVED = ("passed", "pidfd_getfd")


@pytest.fixture(scope="module")
def gone(sensor: Sensor, workloads: Workloads, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The workload's truth, and the opens and alerts of its processes."""
    truth, documents = sensor.watch(lambda: workloads.run("ways", tmp_path_factory.mktemp("ways").resolve(), TIMES))
    pids = {row["pid"] for row in truth["operations"]}
    opens = [d for d in of_kind(documents, "file-open") if get(d, "process.pid") in pids]
    return SimpleNamespace(rows=truth["operations"], opens=opens, alerts=alerts(documents))


def _row(row: Document) -> tuple[object, ...]:
    return row["pid"], row["path"], row["inode"], row["mntns"]


def _told(d: Document) -> tuple[object, ...]:
    return (get(d, "process.pid"), get(d, "file.path"), get(d, "file.inode"), get(d, "process.namespace.mnt"))


def test_ways_around_the_usual_name_are_seen_as_often_as_they_were_gone(gone: SimpleNamespace) -> None:
    """Path as the mount's namespace has it, inode, opener and the opener's mount namespace, way by way."""
    rows: dict[str, list[Document]] = {}
    for row in gone.rows:
        if row["op"] in ("read", "open", "open-upper"):
            rows.setdefault(f"{row['op']} {row['how']}", []).append(row)
    assert {len(done) for done in rows.values()} == {TIMES}
    assert {"read namespace", "read bind file", "read chroot", "read root of another namespace"} <= set(rows)
    everything = Counter(map(_row, (row for done in rows.values() for row in done)))
    seen = Counter(map(_told, gone.opens))
    missed = {way: [key for key in map(_row, done) if seen[key] != everything[key]] for way, done in rows.items()}
    assert {way: keys for way, keys in missed.items() if keys} == {}


def test_secret_under_its_own_path_alerts_however_it_was_opened(gone: SimpleNamespace) -> None:
    """openat2, the 32-bit table, handles, a root directory or a mount namespace of one's own."""
    rows = [row for row in gone.rows if row["op"] == "read" and row["path"] == str(SECRET)]
    assert len(rows) >= 8 * TIMES
    raised = Counter(
        get(d, "process.pid") for d in gone.alerts if "T1003.008" in get(d, "threat.technique.id", ())
    )
    assert {row["pid"] for row in rows} <= set(raised)


@pytest.mark.hostile("other-namespace")
def test_opener_in_another_mount_namespace_is_told_by_its_number(gone: SimpleNamespace) -> None:
    """The same path means another file there: the record names the namespace."""
    home = os.stat("/proc/self/ns/mnt").st_ino
    for how, foreign in (("namespace", True), ("chroot", False)):
        pids = {row["pid"] for row in gone.rows if row["op"] == "read" and row["how"] == how}
        told = {get(d, "process.namespace.mnt") for d in gone.opens if get(d, "process.pid") in pids}
        assert told and (home not in told) == foreign, how


def test_upper_layer_of_an_overlay_is_marked(gone: SimpleNamespace) -> None:
    """Files copied up or made there; a file of the lower layer is not."""
    inodes = {(row["path"], row["inode"]) for row in gone.rows if row["op"] == "open-upper"}
    if not inodes:
        pytest.skip("this kernel has no overlayfs")
    marked = {(get(d, "file.path"), get(d, "file.inode")) for d in gone.opens if "upper" in flags(d)}
    assert marked == inodes


@pytest.mark.hostile("socket-ways")
def test_received_descriptor_is_an_open_of_its_sender_only(gone: SimpleNamespace) -> None:
    """SCM_RIGHTS and pidfd_getfd() open nothing: the process that did the open is the one that is told."""
    uses = [row for row in gone.rows if row["op"] == "use"]
    assert {row["how"] for row in uses} == set(RECEIVED)
    receivers = {row["pid"] for row in uses}
    assert not [d for d in gone.opens if get(d, "process.pid") in receivers]


def test_truncate_without_an_open_is_seen_or_declared_as_missed(gone: SimpleNamespace) -> None:
    """ftruncate() needs a descriptor, whose open is seen; truncate() needs none."""
    paths = {row["path"] for row in gone.rows if row["op"] == "cut"}
    seen = {get(d, "file.path") for d in gone.opens if "trunc" in flags(d)}
    if not paths <= seen:
        assert "truncate(2)" in (ROOT / "probes" / "file.c").read_text().split("*/")[0].split("Misses")[1]
