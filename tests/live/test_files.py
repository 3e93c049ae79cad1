"""Files opened, made, named, renamed, marked and removed, against what the workload says it did."""

from __future__ import annotations

import os
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.live.harness import Document, Sensor, Workloads, action, flags, get, octal, of_kind

DAILY = 23
RARE = 7
O_LARGEFILE = 0o100000  # added by the kernel's 64-bit calls
FILE_ACTIONS = (
    "file-open",
    "file-unlink",
    "file-rename",
    "file-link",
    "file-chmod",
    "file-chown",
    "file-mkdir",
)
NAMED_BY_OBJECT = ["create", "absolute", "dirfd", "cwd", "truncate", "create-existing", "symlink", "dots"]
RARE_OPENS = ["openat2", "creat", "directory-link", "proc-root", "handle", "reopen", "compat"]


@pytest.fixture(scope="module")
def ran(sensor: Sensor, workloads: Workloads, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The workload's truth, and the file documents of its process in order."""
    place = tmp_path_factory.mktemp("files").resolve()
    truth, documents = sensor.watch(lambda: workloads.run("files", place, DAILY, RARE))
    seen = [d for d in of_kind(documents, *FILE_ACTIONS) if get(d, "process.pid") == truth["pid"]]
    return SimpleNamespace(truth=truth, seen=seen, place=str(place))


def _rows(ran: SimpleNamespace, op: str, *hows: str) -> list[Document]:
    rows = [row for part in ("operations", "mkdirs", "removals", "deep") for row in ran.truth[part]]
    return [row for row in rows if row["op"] == op and (not hows or row["how"] in hows)]


def _seen(ran: SimpleNamespace, wanted: str) -> list[Document]:
    return [d for d in ran.seen if action(d) == wanted]


def _paths(rows: list[Document]) -> Counter[str]:
    return Counter(row["path"] for row in rows)


def test_every_open_is_seen_exactly_once_in_order(ran: SimpleNamespace) -> None:
    """Real path and inode of each open for writing, whichever way the file was named or opened."""
    wanted = [(row["path"], row["inode"]) for row in _rows(ran, "open") if row["how"] not in ("deep", "long")]
    seen = [
        (get(d, "file.path"), get(d, "file.inode")) for d in _seen(ran, "file-open") if get(d, "file.name") != "leaf"
    ]
    assert seen == wanted


@pytest.mark.parametrize("how", NAMED_BY_OBJECT)
def test_23_opens_of_a_kind_give_23_events(ran: SimpleNamespace, how: str) -> None:
    """Relative by descriptor and by cwd, through symbolic links and dots: the real path, each once."""
    rows = _rows(ran, "open", how)
    assert len(rows) == DAILY
    keys = {(row["path"], row["flags"]) for row in rows}
    everything = Counter((row["path"], row["flags"]) for row in _rows(ran, "open"))  # other ways use the same files
    seen = Counter((get(d, "file.path"), get(d, "file.open_flags") & ~O_LARGEFILE) for d in _seen(ran, "file-open"))
    assert {key: seen[key] for key in keys} == {key: everything[key] for key in keys}


@pytest.mark.parametrize("how", RARE_OPENS)
@pytest.mark.hostile("odd-calls")
def test_rarer_way_to_open_is_seen_as_often_as_it_was_gone(ran: SimpleNamespace, how: str) -> None:
    """openat2, creat, open_by_handle_at, /proc/self/root, reopening a descriptor, the 32-bit table."""
    rows = _rows(ran, "open", how)
    if not rows:
        pytest.skip(f"this kernel or file system refused {how}")
    assert len(rows) == RARE
    paths = _paths(rows)
    everything = _paths(_rows(ran, "open"))  # other ways use the same files
    seen = Counter(get(d, "file.path") for d in _seen(ran, "file-open"))
    assert {path: seen[path] for path in paths} == {path: everything[path] for path in paths}


def test_open_documents_say_owner_mode_device_and_flags(ran: SimpleNamespace) -> None:
    """What fstat() and the call itself said, for each open in turn."""

    def wanted(row: Document) -> tuple[object, ...]:
        return (
            row["how"],
            row["inode"],
            row["device"],
            row["mode"] & 0o7777,
            row["uid"],
            row["gid"],
            row["flags"],
        )

    def told(row: Document, d: Document) -> tuple[object, ...]:
        mode = octal(get(d, "file.mode"))
        return (
            row["how"],
            get(d, "file.inode"),
            get(d, "file.device"),
            None if mode is None else mode & 0o7777,
            int(get(d, "file.uid")),
            int(get(d, "file.gid")),
            get(d, "file.open_flags") & ~O_LARGEFILE,
        )

    rows, seen = _rows(ran, "open"), _seen(ran, "file-open")
    assert [told(row, d) for row, d in zip(rows, seen, strict=True)] == [wanted(row) for row in rows]


def test_created_files_are_told_from_changed_ones(ran: SimpleNamespace) -> None:
    """O_CREAT on a file that is there creates nothing; truncation is marked."""
    for row, d in zip(_rows(ran, "open"), _seen(ran, "file-open"), strict=True):
        if row["how"] == "unnamed":  # has no name: made, but in no directory
            continue
        assert "write" in flags(d), row
        assert ("created" in flags(d)) == bool(row["created"]), row
        assert ("creation" if row["created"] else "change") in get(d, "event.type"), row
        if not row["created"]:
            assert "creation" not in get(d, "event.type"), row
            assert ("trunc" in flags(d)) == bool(row["flags"] & os.O_TRUNC), row


@pytest.mark.hostile("odd-calls")
def test_open_through_the_32_bit_table_is_marked(ran: SimpleNamespace) -> None:
    """int 0x80 gives the same event with the compat flag, and nothing else has it."""
    rows = _rows(ran, "open", "compat")
    if not rows:
        pytest.skip("this kernel has no 32-bit system calls")
    marked = [get(d, "file.path") for d in ran.seen if "compat" in flags(d)]
    assert marked == [row["path"] for row in rows]


def test_paths_of_opens_are_never_the_argument(ran: SimpleNamespace) -> None:
    """An open is reported from the kernel's file; openat2 alone takes its flags from the caller."""
    taken = {get(d, "file.path") for d in _seen(ran, "file-open") if "argument" in flags(d)}
    assert taken <= set(_paths(_rows(ran, "open", "openat2")))


def test_file_without_a_name_is_marked_deleted(ran: SimpleNamespace) -> None:
    """O_TMPFILE makes a file that no directory has."""
    inodes = {row["inode"] for row in _rows(ran, "open", "unnamed")}
    if not inodes:
        pytest.skip("this file system has no O_TMPFILE")
    seen = [d for d in _seen(ran, "file-open") if get(d, "file.inode") in inodes and "/#" in get(d, "file.path")]
    assert len(seen) == RARE
    assert all("deleted" in flags(d) for d in seen)


def test_failed_calls_and_unwatched_reads_make_no_event(ran: SimpleNamespace) -> None:
    """Missing files, existing ones with O_EXCL, reads nobody watches: silence."""
    missing = {row["path"] for row in _rows(ran, "quiet", "missing")}
    assert len(missing) == RARE
    assert not [d for d in ran.seen if get(d, "file.path") in missing or "/no-such-" in str(get(d, "file"))]
    assert len(_seen(ran, "file-open")) == len(_rows(ran, "open"))


def test_names_with_any_byte_arrive_as_they_are(ran: SimpleNamespace) -> None:
    """Newline, ESC, 0xFF, quotes, backslashes, bidi marks, a surrogate, 255 bytes: 18 names, each once."""
    wanted = [row["path"] for row in _rows(ran, "open", "odd")]
    assert len(set(wanted)) == 18
    opened = [get(d, "file.path") for d in _seen(ran, "file-open")]
    removed = [get(d, "file.path") for d in _seen(ran, "file-unlink")]
    assert [path for path in opened if path in wanted] == wanted
    assert [path for path in removed if path in wanted] == wanted


@pytest.mark.parametrize("how", ["absolute", "relative", "dirfd", "odd"])
def test_unlinks_resolve_to_the_absolute_path(ran: SimpleNamespace, how: str) -> None:
    """Each removed name once, whatever it was relative to."""
    wanted = _paths(_rows(ran, "unlink", how))
    seen = Counter(get(d, "file.path") for d in _seen(ran, "file-unlink"))
    assert wanted
    assert {path: seen[path] for path in wanted} == dict(wanted)


@pytest.mark.parametrize("how", ["absolute", "dirfd"])
def test_removed_directories_are_marked(ran: SimpleNamespace, how: str) -> None:
    """rmdir() and unlinkat(AT_REMOVEDIR) are deletions of directories."""
    wanted = [row["path"] for row in _rows(ran, "rmdir", how)]
    seen = [d for d in _seen(ran, "file-unlink") if get(d, "file.path") in wanted]
    assert [get(d, "file.path") for d in seen] == wanted
    assert all("directory" in flags(d) for d in seen)


def test_name_removed_through_a_directory_link_is_real_or_marked_as_argument(ran: SimpleNamespace) -> None:
    """Where a hook knows only the argument, the document says so."""
    rows = _rows(ran, "unlink", "directory-link")
    assert len(rows) == RARE
    by_path = {get(d, "file.path"): d for d in _seen(ran, "file-unlink")}
    for row in rows:
        found = by_path.get(row["path"])
        if found is None:
            found = by_path[row["argument"]]
            assert "argument" in flags(found)


def test_nothing_is_removed_twice(ran: SimpleNamespace) -> None:
    """As many deletions as the workload made."""
    rows = _rows(ran, "unlink") + _rows(ran, "rmdir") + _rows(ran, "unlink-deep")
    assert len(_seen(ran, "file-unlink")) == len(rows)


def test_renames_have_both_absolute_paths_in_order(ran: SimpleNamespace) -> None:
    """rename, renameat, RENAME_EXCHANGE, RENAME_NOREPLACE, replacement: old name and new name."""
    rows = _rows(ran, "rename")
    assert len(rows) == 5 * DAILY
    wanted = [(row["source"], row["path"]) for row in rows]
    seen = [(get(d, "file.Ext.original.path"), get(d, "file.path")) for d in _seen(ran, "file-rename")]
    assert seen == wanted


def test_links_have_their_target_hard_resolved_and_soft_as_text(ran: SimpleNamespace) -> None:
    """A hard link's target is a path, a symbolic link's is any text."""
    wanted = [
        (row["path"], row["source"], int(row["op"] == "symlink"))
        for row in ran.truth["operations"]
        if row["op"] in ("link", "symlink")
    ]
    made_before = DAILY + 1  # the symbolic links that the opens go through
    seen = [
        (get(d, "file.path"), get(d, "file.target_path"), int(get(d, "file.link.symbolic")))
        for d in _seen(ran, "file-link")
    ]
    assert len(seen) == made_before + 4 * RARE
    assert seen[made_before:] == wanted


def test_chmods_have_path_and_mode(ran: SimpleNamespace) -> None:
    """By absolute and relative path, by descriptor, by directory descriptor; set-uid bits kept."""
    rows = [row for row in ran.truth["operations"] if row["op"] == "chmod"]
    wanted = [(row["path"], row["mode"]) for row in rows]
    seen = [(get(d, "file.path"), (octal(get(d, "file.mode")) or 0) & 0o7777) for d in _seen(ran, "file-chmod")]
    assert len(wanted) == 4 * RARE
    assert seen == wanted


def test_chowns_have_path_and_new_owner(ran: SimpleNamespace) -> None:
    """chown, fchown, fchownat and lchown; an id that stays is 4294967295."""
    rows = [row for row in ran.truth["operations"] if row["op"] == "chown"]
    wanted = [(row["path"], row["uid"], row["gid"]) for row in rows]
    seen = [
        (get(d, "file.path"), int(get(d, "file.uid", 4294967295)), int(get(d, "file.gid", 4294967295)))
        for d in _seen(ran, "file-chown")
    ]
    assert len(wanted) == 4 * RARE
    assert seen == wanted


def test_mkdirs_have_path_and_mode(ran: SimpleNamespace) -> None:
    """mkdir() and mkdirat(), and the directories that the rest of the workload needs."""
    wanted = {row["path"]: row["mode"] for row in ran.truth["mkdirs"]}
    assert len(wanted) == 2 * RARE
    seen = [(get(d, "file.path"), (octal(get(d, "file.mode")) or 0) & 0o7777) for d in _seen(ran, "file-mkdir")]
    assert [pair for pair in seen if pair[0] in wanted] == list(wanted.items())
    assert len(seen) == 2 * RARE + 3 + 75 + 30


@pytest.mark.parametrize("how", ["deep", "long"])
@pytest.mark.hostile("long-values")
def test_path_too_deep_or_too_long_is_whole_or_cut_at_the_front_and_marked(ran: SimpleNamespace, how: str) -> None:
    """76 components, and 6,000 bytes: the end that rules match on is there, and a cut is never silent."""
    [row] = [row for row in ran.truth["deep"] if row["op"] == "open" and row["how"] == how]
    last = row["path"].split("/")[-2]  # the inode number of the first file may have been given to the second
    [d] = [d for d in _seen(ran, "file-open") if get(d, "file.path").endswith(f"/{last}/leaf")]
    assert get(d, "file.inode") == row["inode"]
    path = get(d, "file.path")
    if path != row["path"]:
        assert flags(d) & {"path_cut", "truncated"}
        kept = path.lstrip("/.…")
        assert len(kept) > 128
        assert row["path"].endswith("/" + kept)


def test_documents_name_the_acting_process(ran: SimpleNamespace) -> None:
    """Executable, parent and user come with every file event."""
    assert len(ran.seen) > 500
    assert {get(d, "process.executable") for d in ran.seen} == {ran.truth["executable"]}
    assert {get(d, "process.parent.pid") for d in ran.seen} == {ran.truth["ppid"]}
    assert {get(d, "user.name") for d in ran.seen} == {"root"}
    assert len({get(d, "process.entity_id") for d in ran.seen}) == 1


def test_sequence_numbers_are_never_reused(ran: SimpleNamespace) -> None:
    """event.id is unique."""
    ids = [get(d, "event.id") for d in ran.seen]
    assert len(set(ids)) == len(ids)
