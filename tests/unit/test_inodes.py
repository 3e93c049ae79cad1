"""Files told apart by the numbers of the kernel's own superblocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sensor.kernel.inodes import devices, identity

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
57 22 0:42 /@home /home rw,relatime - btrfs /dev/vdb rw,subvol=/@home
58 22 0:4194303 / /with\\040space rw - tmpfs none rw
"""


def test_devices_are_those_of_the_superblock_by_mount() -> None:
    """Third word of a row; names with spaces are escaped and don't disturb."""
    assert devices(MOUNTS) == {22: 254 << 20, 57: 42, 58: 4194303}


def test_file_is_told_by_its_mount_and_not_by_stat(tmp_path: Path) -> None:
    """Where stat() has a device of its own, as on btrfs, the mount's is what a probe sees."""
    file = tmp_path / "file"
    file.touch()
    facts = file.stat()
    (mount,) = [int(line.split()[1]) for line in _fdinfo(file).splitlines() if line.startswith("mnt_id:")]
    assert identity(str(file), {mount: 7 << 20 | 9}) == (facts.st_ino, 7 << 20 | 9)
    assert identity(str(file), {}) == (facts.st_ino, os.major(facts.st_dev) << 20 | os.minor(facts.st_dev))


def test_file_that_is_gone_is_an_error_of_the_system(tmp_path: Path) -> None:
    """The caller passes over it."""
    with pytest.raises(FileNotFoundError):
        identity(str(tmp_path / "none"), {})


def _fdinfo(path: Path) -> str:
    fd = os.open(path, os.O_PATH)
    try:
        return Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
