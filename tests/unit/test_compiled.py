"""What was compiled before is used again only if it is whole, ours, and made from the same things."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.kernel.compiled import Cache, Compiled, Table, key, relocated

TABLES = (Table("ring", 27, 0, 0, 4096, 0), Table("noted", 1, 8, 600, 1024, 0))
EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def map_reference(number: int) -> bytes:
    """r1 = map *number*, two instructions wide."""
    return struct.pack("<BBhi", 0x18, 1 << 4 | 1, 0, number) + bytes(8)


PROGRAM = Compiled(TABLES, {"on_exec": map_reference(1) + map_reference(0) + EXIT})


def test_programs_get_the_descriptors_of_this_load() -> None:
    """A place in the list becomes a descriptor; nothing else of the program changes."""
    assert PROGRAM.code("on_exec", [7, 9]) == map_reference(9) + map_reference(7) + EXIT


def test_other_constants_of_64_bits_are_no_maps() -> None:
    """Only the pseudo source register makes it a reference."""
    constant = struct.pack("<BBhi", 0x18, 1, 0, 5) + bytes(8)
    assert relocated(constant + EXIT, {}) == constant + EXIT


@pytest.mark.parametrize("code", [EXIT[:5], map_reference(2), map_reference(-1)])
def test_code_that_can_not_be_ours_is_refused(code: bytes) -> None:
    """Half an instruction, or a map that there is not."""
    with pytest.raises(ValueError, match=r"half|which there is not"):
        Compiled.load(Compiled(TABLES, {"on_exec": code}).dump())


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | st.sampled_from(
    [b"{}", b"[]", b"null", b'{"format":1}', b'{"format":1,"tables":[[]],"programs":{}}',
     b'{"format":1,"tables":[],"programs":{"a":1}}', b'{"format":1,"tables":[],"programs":[]}', b"[" * 100_000]))
def test_any_other_content_is_refused(data: bytes) -> None:
    """A damaged file means compiling again, whatever is in it."""
    with pytest.raises(ValueError, match=r"."):
        Compiled.load(data)


def test_what_was_put_is_got_under_its_own_name_only(tmp_path: Path) -> None:
    """Family and key both count."""
    cache = Cache(tmp_path / "new")
    cache.put("process", "a", PROGRAM)
    assert cache.get("process", "a") == PROGRAM
    assert cache.get("process", "b") is None
    assert cache.get("file", "a") is None
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["process-a"]


@pytest.mark.hostile("state-tampered")
def test_a_file_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    """Whoever can write it would decide what root loads into the kernel."""
    cache = Cache(tmp_path / "c")
    cache.put("process", "a", PROGRAM)
    (tmp_path / "c" / "process-a").chmod(0o620)
    assert cache.get("process", "a") is None


def test_a_directory_that_others_can_write_gets_nothing(tmp_path: Path) -> None:
    """Nor is anything put where it could be swapped."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    Cache(tmp_path / "c").put("process", "a", PROGRAM)
    assert list((tmp_path / "c").iterdir()) == []


@pytest.mark.hostile("state-tampered")
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A name that leads elsewhere is no file of ours."""
    cache = Cache(tmp_path / "c")
    cache.put("process", "a", PROGRAM)
    (tmp_path / "c" / "process-b").symlink_to("process-a")
    assert cache.get("process", "b") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_used(tmp_path: Path) -> None:
    """Even where nobody else may write it."""
    cache = Cache(tmp_path / "c")
    cache.put("process", "a", PROGRAM)
    os.chown(tmp_path / "c" / "process-a", 65534, 65534)
    assert cache.get("process", "a") is None


def test_only_the_newest_of_a_family_are_kept(tmp_path: Path) -> None:
    """Kernels come and go; their programs don't pile up."""
    cache = Cache(tmp_path / "c")
    for number in range(9):
        cache.put("process", str(number), PROGRAM)
        os.utime(tmp_path / "c" / f"process-{number}", (number + 1, number + 1))
        cache.put("file", "a", PROGRAM)
    left = {path.name for path in (tmp_path / "c").iterdir()}
    assert len([name for name in left if name.startswith("process-")]) == 4
    assert {"process-8", "file-a"} <= left


def test_without_a_directory_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    """No home, or one that can't be made, costs time only."""
    Cache(None).put("process", "a", PROGRAM)
    assert Cache(None).get("process", "a") is None
    (tmp_path / "file").touch()
    Cache(tmp_path / "file" / "c").put("process", "a", PROGRAM)
    assert Cache(tmp_path / "file" / "c").get("process", "a") is None


@pytest.mark.hostile("kernel-upgrade")
def test_keys_differ_in_every_part() -> None:
    """Parts don't run into each other."""
    assert len({key("a", "b"), key("ab", ""), key("", "ab"), key("a", "b", ""), key("b", "a")}) == 5
