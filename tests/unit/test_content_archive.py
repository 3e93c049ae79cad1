"""Archives: the same bytes every time, and nothing hostile gets through or raises anything else."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sensor.content import archive, manifest
from sensor.errors import ContentError

FILES = {manifest.NAME: b"{}", "rules/a.yml": b"x" * 700, "rules/deep/er/b.yml": b"", "golden/day.jsonl": b"{}\n"}
names = st.from_regex(r"[a-z0-9_]{1,8}(/[a-z0-9_][a-z0-9_.+-]{0,8}){0,4}", fullmatch=True)


def compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def tar(*entries: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as made:
        for entry, data in entries:
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as made:
        for name, data in entries:
            made.writestr(name, data)
    return buffer.getvalue()


def read(path: Path) -> dict[str, bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return archive.read(fd, "release")
    finally:
        os.close(fd)


@given(st.dictionaries(names, st.binary(max_size=1500), max_size=6))
def test_what_is_packed_is_unpacked_the_same_and_packed_again_the_same(files: dict[str, bytes]) -> None:
    """In whatever order the files come."""
    data = archive.write(files)
    assert archive.unpack(data, "release") == files
    assert archive.write(dict(reversed(files.items()))) == data


def test_directory_tar_and_zip_of_the_same_files_are_the_same(tmp_path: Path) -> None:
    """Three forms, one content."""
    for name, data in FILES.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(data)
    (tmp_path / "z").write_bytes(zipped(*FILES.items()))
    (tmp_path / "t").write_bytes(archive.write(FILES))
    assert read(tmp_path / "d") == read(tmp_path / "z") == read(tmp_path / "t") == FILES


@given(st.binary(max_size=2000), st.sampled_from(["raw", "tar", "zip", "zst"]))
def test_any_bytes_are_files_or_a_content_error(data: bytes, form: str) -> None:
    """Noise, and noise where a header should be."""
    made = {"raw": data, "tar": compressed(data), "zip": b"PK\x03\x04" + data, "zst": b"\x28\xb5\x2f\xfd" + data}
    try:
        archive.unpack(made[form], "release")
    except ContentError:
        pass


@given(st.integers(0, 10**9), st.integers(0, 7), st.sampled_from(["tar", "zip"]), st.booleans())
@pytest.mark.hostile("hostile-content")
def test_an_archive_with_a_bit_flipped_or_cut_short_is_files_or_a_content_error(
        at: int, bit: int, form: str, cut: bool) -> None:
    """What comes through still keeps to the bounds of names."""
    data = bytearray(tar(*((entry(name), data) for name, data in FILES.items())) if form == "tar"
                     else zipped(*FILES.items()))
    if cut:
        del data[at % len(data):]
    else:
        data[at % len(data)] ^= 1 << bit
    try:
        found = archive.unpack(compressed(bytes(data)) if form == "tar" else bytes(data), "release")
    except ContentError:
        return
    assert all(manifest.check_name(name) is None for name in found)


def test_every_cut_of_a_packed_release_is_refused() -> None:
    """Half a download is none."""
    data = archive.write(FILES)
    for length in range(len(data)):
        with pytest.raises(ContentError):
            archive.unpack(data[:length], "release")


@pytest.mark.parametrize("name", ["../a.yml", "/etc/passwd", "rules/../../a", "rules/.a", "rules/\x1b[2J", "rules\\a",
                                  "x/" * 9 + "a", "C:a"])
@pytest.mark.hostile("hostile-content")
def test_a_name_that_leads_out_is_refused_in_every_form(name: str) -> None:
    """And the message can't harm a terminal."""
    for data in (compressed(tar((entry(name), b"x"))), zipped((name, b"x"))):
        with pytest.raises(ContentError) as caught:
            archive.unpack(data, "release")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                                  tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_devices_and_sparse_files_in_a_tar_are_refused(kind: bytes) -> None:
    """By kind, whatever they point to."""
    with pytest.raises(ContentError):
        archive.unpack(compressed(tar((entry("rules/a.yml", kind, "/etc/shadow"), b""))), "release")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_extended_tar_headers_are_refused(form: int) -> None:
    """What pax and GNU headers can say (another name, a sparse map) is never read."""
    with pytest.raises(ContentError):
        archive.unpack(compressed(tar((entry("rules/" + "a" * 120), b"x"), form=form)), "release")


def test_links_and_encrypted_files_in_a_zip_are_refused() -> None:
    """The same there."""
    link = zipfile.ZipInfo("rules/a.yml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ContentError, match="links"):
        archive.unpack(zipped((link, b"/etc/shadow")), "release")
    data = bytearray(zipped(("rules/a.yml", b"x")))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ContentError, match="encrypted"):
        archive.unpack(bytes(data), "release")


def test_a_file_that_stands_twice_is_refused() -> None:
    """Which of the two would be meant depends on who reads it."""
    with pytest.raises(ContentError, match="twice"):
        archive.unpack(compressed(tar((entry("rules/a.yml"), b"1"), (entry("rules/a.yml"), b"2"))), "release")
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(("rules/a.yml", b"1"), ("rules/a.yml", b"2"))
    with pytest.raises(ContentError, match="twice"):
        archive.unpack(data, "release")


@pytest.mark.hostile("hostile-content")
def test_bombs_are_refused_by_what_they_grow_to() -> None:
    """A few kilobytes that become gigabytes, in each form, and a size that is only claimed."""
    zeros = bytes(archive.manifest.MAX_TOTAL + (16 << 20))
    with pytest.raises(ContentError, match=r"grows|larger"):
        archive.unpack(compressed(zeros), "release")
    with pytest.raises(ContentError, match="larger"):
        archive.unpack(zipped(("golden/a.jsonl", zeros)), "release")
    with pytest.raises(ContentError, match="larger"):
        archive.unpack(compressed(tar((entry("rules/a.yml"), bytes((1 << 20) + 1)))), "release")
    many = [(entry(f"rules/{number}.yml"), b"") for number in range(manifest.MAX_FILES + 3)]
    with pytest.raises(ContentError, match="more than"):
        archive.unpack(compressed(tar(*many)), "release")


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    """The window is memory of the reader's, and the frame chooses it."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    data = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(ContentError, match="broken"):
        archive.unpack(data.compress(bytes(1 << 20)) + data.flush(), "release")


@pytest.mark.parametrize("make", ["link", "fifo", "dangling", "hidden", "deep"])
@pytest.mark.hostile("odd-files")
def test_a_directory_with_something_strange_in_it_is_refused_without_waiting(tmp_path: Path, make: str) -> None:
    """Nothing is followed, nothing is waited for."""
    rules = tmp_path / "rules"
    rules.mkdir()
    if make == "link":
        (rules / "a.yml").symlink_to("/etc/passwd")
    elif make == "fifo":
        os.mkfifo(rules / "a.yml")
    elif make == "dangling":
        (rules / "a.yml").symlink_to("nowhere")
    elif make == "hidden":
        (rules / ".git").mkdir()
    else:
        (tmp_path / "/".join("d" * 10)).mkdir(parents=True)
        (tmp_path / "/".join("d" * 10) / "a.yml").write_text("")
    with pytest.raises(ContentError):
        read(tmp_path)


def test_a_sparse_giant_is_refused_by_its_size(tmp_path: Path) -> None:
    """A terabyte of hole takes no room and no time."""
    (tmp_path / "golden").mkdir()
    with (tmp_path / "golden/day.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ContentError, match="larger"):
        read(tmp_path)
