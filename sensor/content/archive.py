"""Releases as directories, .tar.zst or .zip: read with suspicion, written the same way every time.

Runs in a throw-away child where the release is foreign (sandbox.py). A name that leads out, a link, a
device, a second file of the same name, too many or too large ones: the whole release is refused. The
tar reader is our own, for a release is plain ustar: none of the extensions is there to be abused.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import zstandard

from sensor.content import manifest
from sensor.errors import ContentError

MAX_ARCHIVE = 32 << 20  # bytes as they lie on disk
_TAR = manifest.MAX_TOTAL + (manifest.MAX_FILES + 16) * 1024  # data, headers and padding
_ZSTD_WINDOW = 1 << 23  # what level 19 uses; a hostile frame may ask for 2 GiB
_ZSTD, _ZIP = b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
#: Compressed bytes given to the decoder at once: the worst block turns 4 bytes into 128 KiB.
_PIECE = 1024
_BLOCK = 512
_SPECIAL = (manifest.NAME, manifest.SIGNATURES)


class _Files:
    """Collects files within the bounds."""

    def __init__(self, path: str) -> None:
        self.path, self.found, self.total = path, dict[str, bytes](), 0

    def refuse(self, name: str, reason: str) -> ContentError:
        return ContentError(f"{self.path}/{name[:manifest.MAX_NAME]!a}".replace("'", ""), None, reason)

    def room(self, name: str, size: int) -> int:
        """Check name and announced size before anything is read; the most that may be read."""
        if fault := manifest.check_name(name):
            raise self.refuse(name, fault)
        if name in self.found:
            raise self.refuse(name, "stands twice in the release")
        if len(self.found) >= manifest.MAX_FILES + len(_SPECIAL):
            raise self.refuse(name, f"more than {manifest.MAX_FILES} files")
        limit = manifest.MAX_MANIFEST if name in _SPECIAL else manifest.max_size(name)
        if size > limit:
            raise self.refuse(name, f"larger than {limit} bytes")
        if self.total + size > manifest.MAX_TOTAL:
            raise self.refuse(name, f"the files together are larger than {manifest.MAX_TOTAL} bytes")
        return limit

    def add(self, name: str, data: bytes) -> None:
        self.room(name, len(data))
        self.found[name] = data
        self.total += len(data)


def read(fd: int, path: str) -> dict[str, bytes]:
    """Every file of a release: an opened directory, .tar.zst or .zip; told by what it is, not by its name.

    *path* is for messages. Raises ContentError, and nothing else for whatever is in there.
    """
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            files = _Files(path)
            _directory(fd, "", files)
            return files.found
        return unpack(_whole(fd, path), path)
    except OSError as error:
        raise ContentError(path, None, f"can't be read: {error.strerror}") from error


def unpack(data: bytes, path: str) -> dict[str, bytes]:
    """Every file of an archive. Raises ContentError."""
    files = _Files(path)
    if data.startswith(_ZSTD):
        _tar(_unzstd(data, path), files)
    elif data.startswith(_ZIP):
        _zip(data, files)
    else:
        raise ContentError(path, None, "neither a directory nor a .tar.zst or .zip archive")
    return files.found


def _whole(fd: int, path: str) -> bytes:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ContentError(path, None, "neither a directory nor a regular file")
    data = b"".join(_pieces(fd, MAX_ARCHIVE + 1))
    if len(data) > MAX_ARCHIVE:
        raise ContentError(path, None, f"larger than {MAX_ARCHIVE} bytes")
    return data


def _pieces(fd: int, limit: int) -> Iterator[bytes]:
    at = 0
    while at < limit and (piece := os.pread(fd, min(1 << 20, limit - at), at)):
        yield piece
        at += len(piece)


def _directory(fd: int, prefix: str, files: _Files) -> None:
    if prefix.count("/") > manifest.MAX_DEPTH:
        raise files.refuse(prefix, f"deeper than {manifest.MAX_DEPTH} directories")
    with os.scandir(fd) as entries:
        names = sorted(entry.name for _, entry in zip(range(manifest.MAX_FILES + 3), entries, strict=False))
    for entry in names:
        name = prefix + entry
        if fault := manifest.check_name(name):
            raise files.refuse(name, fault)
        # Neither a link nor a FIFO gets further than this.
        child = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd) \
            if not _is_link(entry, fd) else -1
        if child < 0:
            raise files.refuse(name, "is a symbolic link")
        try:
            status = os.fstat(child)
            if stat.S_ISDIR(status.st_mode):
                _directory(child, f"{name}/", files)
            elif stat.S_ISREG(status.st_mode):
                files.add(name, b"".join(_pieces(child, files.room(name, status.st_size) + 1)))
            else:
                raise files.refuse(name, "is neither a file nor a directory")
        finally:
            os.close(child)


def _is_link(name: str, fd: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)


def _unzstd(data: bytes, path: str) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    found = bytearray()
    try:
        for at in range(0, len(data), _PIECE):
            found += decoder.decompress(data[at:at + _PIECE])
            if len(found) > _TAR:
                raise ContentError(path, None, f"grows beyond {_TAR} bytes")
            if decoder.eof and (decoder.unused_data or at + _PIECE < len(data)):
                raise ContentError(path, None, "something stands behind the compressed data")
    except (zstandard.ZstdError, MemoryError) as error:
        raise ContentError(path, None, f"the compressed data is broken: {error}") from None
    if not decoder.eof:
        raise ContentError(path, None, "the compressed data ends in the middle")
    return bytes(found)


def _tar(data: bytes, files: _Files) -> None:
    """Plain ustar. Source: pax(1), "ustar Interchange Format"."""
    at = 0
    while at + _BLOCK <= len(data):
        header = data[at:at + _BLOCK]
        at += _BLOCK
        if not any(header):
            return
        name, kind, size = _header(header, at - _BLOCK, files)
        if kind == b"5":
            continue  # directories are made from names
        files.room(name, size)
        if at + size > len(data):
            raise files.refuse(name, "ends in the middle")
        files.add(name, data[at:at + size])
        at += size + -size % _BLOCK
    raise ContentError(files.path, None, "the archive has no end")


def _header(header: bytes, at: int, files: _Files) -> tuple[str, bytes, int]:
    text, prefix = (part.partition(b"\0")[0].decode("ascii", "backslashreplace")
                    for part in (header[:100], header[345:500]))
    name = f"{prefix}/{text}" if prefix else text
    if header[257:265] != b"ustar\x0000":
        raise ContentError(files.path, None, f"no plain tar header at byte {at}", "pack it: sensor content pack")
    meant = _octal(header[148:156])
    if meant is None or sum(header) - sum(header[148:156]) + 8 * 0x20 != meant:
        raise ContentError(files.path, None, f"broken tar header at byte {at}")
    kind, size = header[156:157], _octal(header[124:136])
    if kind not in (b"0", b"5"):
        raise files.refuse(name, "is neither a file nor a directory: links and special files are refused")
    if size is None or (kind == b"5" and size):
        raise files.refuse(name, "has no size")
    return name.rstrip("/") if kind == b"5" else name, kind, size


def _octal(field: bytes) -> int | None:
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    return int(digits, 8) if digits and all(0x30 <= digit <= 0x37 for digit in digits) else None


def _zip(data: bytes, files: _Files) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > 2 * manifest.MAX_FILES:
                raise ContentError(files.path, None, f"more than {manifest.MAX_FILES} files")
            for entry in entries:
                _zip_entry(archive, entry, files)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, NotImplementedError, ValueError,
            OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise ContentError(files.path, None, f"the archive is broken: {str(error)[:200]}") from None


def _zip_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, files: _Files) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.flag_bits & 1:
        raise files.refuse(entry.filename, "is encrypted")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise files.refuse(entry.filename, "is neither a file nor a directory: links and special files are refused")
    if entry.is_dir():
        return
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise files.refuse(entry.filename, "is compressed in a way that is not taken")
    limit = files.room(entry.filename, entry.file_size)
    with archive.open(entry) as file:
        files.add(entry.filename, file.read(limit + 1))


def write(files: Mapping[str, bytes]) -> bytes:
    """A .tar.zst of the files: the same bytes for the same files, whoever packs them and when."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files, key=lambda name: (name not in _SPECIAL, name)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return zstandard.ZstdCompressor(level=19, write_checksum=True, threads=0).compress(buffer.getvalue())
