"""Arguments that a probe can't read or that change under it: what the kernel really used is reported."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.live.harness import ROOT, Document, Sensor, Workloads, action, flags, get, of_kind

COLD = 23
RACED = 1009


@pytest.fixture(scope="module")
def cold(sensor: Sensor, workloads: Workloads, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    place = tmp_path_factory.mktemp("cold").resolve()
    truth, documents = sensor.watch(lambda: workloads.run("cold", place, COLD))
    return SimpleNamespace(truth=truth, documents=documents, place=str(place))


@pytest.fixture(scope="module")
def race(sensor: Sensor, workloads: Workloads, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    place = tmp_path_factory.mktemp("race").resolve()
    truth, documents = sensor.watch(lambda: workloads.run("race", place, RACED))
    seen = [d for d in documents if get(d, "process.pid") == truth["pid"]]
    return SimpleNamespace(truth=truth, seen=seen, place=str(place))


def _cold_rows(cold: SimpleNamespace, op: str) -> list[Document]:
    return [row for row in cold.truth["operations"] if row["op"] == op]


@pytest.mark.contract("panic-4a")
@pytest.mark.hostile("cold-page")
def test_open_of_a_path_on_a_page_not_in_memory_has_path_and_inode(cold: SimpleNamespace) -> None:
    """Fresh mappings, discarded pages, and a path that ends on a cold page: 69 opens, in order."""
    rows = _cold_rows(cold, "open")
    assert len(rows) == 3 * COLD
    seen = [
        (get(d, "file.path"), get(d, "file.inode"))
        for d in of_kind(cold.documents, "file-open")
        if get(d, "process.pid") == cold.truth["pid"] and not get(d, "file.path").endswith("/store")
    ]
    assert seen == [(row["path"], row["inode"]) for row in rows]


@pytest.mark.parametrize(
    ("op", "wanted"),
    [("chmod", "file-chmod"), ("rename", "file-rename"), ("unlink", "file-unlink"), ("mkdir", "file-mkdir")],
)
@pytest.mark.contract("panic-4a")
def test_other_calls_with_a_cold_path_have_it_too(cold: SimpleNamespace, op: str, wanted: str) -> None:
    """The argument is read when the kernel has faulted it in."""
    seen = [get(d, "file.path") for d in of_kind(cold.documents, wanted) if get(d, "process.pid") == cold.truth["pid"]]
    assert seen == [row["path"] for row in _cold_rows(cold, op)]
    assert len(seen) == COLD


@pytest.mark.hostile("cold-page")
def test_exec_of_a_path_on_a_cold_page_is_seen(cold: SimpleNamespace) -> None:
    """The program is the kernel's own, not the argument."""
    rows = _cold_rows(cold, "exec")
    pids = [row["pid"] for row in rows]
    seen = [
        (get(d, "process.pid"), get(d, "process.executable"))
        for d in of_kind(cold.documents, "process-exec")
        if get(d, "process.pid") in pids
    ]
    assert seen == [(row["pid"], row["path"]) for row in rows]


@pytest.mark.contract("panic-4a")
@pytest.mark.hostile("cold-page")
def test_connect_with_an_address_on_a_cold_page_has_the_address(cold: SimpleNamespace) -> None:
    """23 addresses, each another."""
    rows = _cold_rows(cold, "connect")
    seen = [
        (get(d, "destination.ip"), get(d, "destination.port"))
        for d in of_kind(cold.documents, "network-connect")
        if get(d, "process.pid") == cold.truth["pid"]
    ]
    assert seen == [(row["destination_ip"], row["destination_port"]) for row in rows]
    assert len(seen) == COLD


@pytest.mark.hostile("argument-race")
def test_raced_open_reports_the_file_that_fstat_shows(race: SimpleNamespace) -> None:
    """1,009 opens whose path another thread swaps between entry and use: inode and path of each are right."""
    opens = race.truth["opens"]
    paths = {opens["inode_a"]: opens["path_a"], opens["inode_b"]: opens["path_b"]}
    wanted = [(inode, paths[inode]) for inode in (*opens["inodes"], *race.truth["links"])]
    assert min(opens["count_a"], opens["count_b"], opens["swapped_before_use"]) > 0
    seen = [
        (get(d, "file.inode"), get(d, "file.path"))
        for d in of_kind(race.seen, "file-open")
        if get(d, "file.inode") in paths and "created" not in flags(d)
    ]
    assert len(seen) == RACED + (RACED // 10 | 1)
    assert seen == wanted


@pytest.mark.hostile("argument-race")
def test_raced_open_is_not_confused_by_a_link_that_changes(race: SimpleNamespace) -> None:
    """The link points elsewhere by the time anybody could look: both targets occur, each as opened."""
    assert len(set(race.truth["links"])) == 2
    seen = [
        get(d, "file.inode")
        for d in of_kind(race.seen, "file-open")
        if get(d, "file.name") == "file" and "created" not in flags(d)
    ]
    assert seen[RACED:] == race.truth["links"]


def test_raced_unlink_has_the_right_path_or_says_that_it_may_not(race: SimpleNamespace) -> None:
    """Where only the argument is known, the document never claims more than that."""
    seen = [d for d in of_kind(race.seen, "file-unlink") if get(d, "file.name") == "gone"]
    rows = race.truth["unlinks"]
    assert len(seen) == len(rows)
    for row, d in zip(rows, seen, strict=True):
        if get(d, "file.path") != row["path"]:
            assert flags(d) & {"raced", "argument"}, row


def _misses(event: str) -> str:
    """What the head of the probe that emits an event says it can't see."""
    for source in (ROOT / "probes").glob("*.c"):
        emits, _, misses = source.read_text().split("*/")[0].partition("Misses")
        if re.search(rf"Emits[^:]*\b{event}\b", emits.split("Why here")[0]):
            return misses.split("Cost")[0]
    raise AssertionError(f"no probe says that it emits {event}")


_O_LARGEFILE = 0o100000  # added by the kernel
#: What the workload did -> the event for it.
_ACTIONS = {
    "open": "file-open",
    "read": "file-open",
    "rename": "file-rename",
    "link": "file-link",
    "symlink": "file-link",
    "unlink": "file-unlink",
    "rmdir": "file-unlink",
    "mkdir": "file-mkdir",
    "connect": "network-connect",
}


@pytest.mark.hostile("io-uring")
def test_io_uring_is_seen_or_declared_as_missed(sensor: Sensor, workloads: Workloads, place: object) -> None:
    """Files opened, named, removed and sockets connected without a system call of that name, in three ways each."""
    truth, documents = sensor.watch(lambda: workloads.run("uring", place, 7))
    if not truth["supported"]:
        pytest.skip("this kernel has no io_uring, or forbids it")
    seen = Counter(
        (action(d), get(d, "process.pid"), get(d, "file.path") or get(d, "destination.port"))
        for d in of_kind(documents, *_ACTIONS.values())
        if "io_uring" in flags(d)
    )
    ways: dict[str, Counter[tuple[object, ...]]] = {}
    for row in truth["operations"]:
        name = f"{row['op']} {row['how']}".removesuffix(" existing").removesuffix(" direct")  # all of the same file
        key = (_ACTIONS[row["op"]], row["pid"], row["path"] or row["destination_port"])
        ways.setdefault(name, Counter())[key] += 1
    assert {ways[f"open {how}"].total() for how in ("inline", "worker", "sqpoll")} <= {14, 21}
    for name, wanted in ways.items():
        found = Counter({key: seen[key] for key in wanted if seen[key]})
        if found != wanted:
            (event,) = {str(key[0]) for key in wanted}
            assert not found, f"{name} is seen in part: {found}"
            assert "io_uring" in _misses(event.replace("-", "_")), f"{name} is neither seen nor declared"
    asked = {(row["path"], row["flags"]) for row in truth["operations"] if "flags" in row}
    told = {
        (get(d, "file.path"), get(d, "file.open_flags") & ~_O_LARGEFILE)
        for d in of_kind(documents, "file-open")
        if "io_uring" in flags(d)
    }
    assert asked <= told or {number for _, number in told} == {0}  # a kernel may not tell how requests lie
