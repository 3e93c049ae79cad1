"""What a release says about itself: version, schema, expiry, every file with its hash.

A release is data. What may be in one is a closed list (rules with their samples, lists of values, a
golden recording), so that content can't bring hooks, actions or settings. Nothing here opens a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sensor.errors import ContentError

NAME, SIGNATURES = "manifest.json", "signatures"
FORMAT = 1
RELEASE, REVOCATION = "release", "revocation"

#: Bounds of a release. The default rules are 250 files of 500 KiB together.
MAX_FILES = 4500
MAX_MANIFEST = 1 << 20
MAX_FILE = 1 << 20
MAX_RECORDING = 16 << 20
MAX_TOTAL = 48 << 20
MAX_DEPTH = 8
MAX_NAME = 100  # what a plain tar header holds
MAX_REVOKED = 1000
MAX_VERSION = 2**53

_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LIST = re.compile(r"lists/(\w{1,64})\.txt", re.ASCII)
_RECORDING = re.compile(r"golden/[^/]+\.jsonl(\.zst)?")
_EXPECTED = "golden/expect.yaml"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_KEYS = {"format", "kind", "name", "version", "schema", "expires", "files", "revokes"}


@dataclass(frozen=True, slots=True)
class File:
    """One file of a release, ``sha256`` in hexadecimal digits."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A release without its files. ``expires`` is in seconds since 1970; ``revokes`` are ids of releases."""

    name: str
    version: int
    schema: int
    expires: int
    files: Mapping[str, File]
    revokes: tuple[str, ...] = ()
    kind: str = RELEASE

    def dump(self) -> bytes:
        """The one way to write it: the id is the hash of these bytes."""
        files = {name: {"sha256": file.sha256, "size": file.size} for name, file in self.files.items()}
        value = {"format": FORMAT, "kind": self.kind, "name": self.name, "version": self.version,
                 "schema": self.schema, "expires": time_text(self.expires), "files": files,
                 "revokes": list(self.revokes)}
        return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True).encode() + b"\n"


def release_id(manifest: bytes) -> str:
    """The name of a release that can't be forged: SHA-256 of its manifest."""
    return hashlib.sha256(manifest).hexdigest()


def time_text(seconds: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(_TIME)


def parse_time(text: str) -> int:
    """Seconds since 1970 of ``2027-01-31T00:00:00Z``, or ``2027-01-31``. Raises ValueError."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        text += "T00:00:00Z"
    return int(datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc).timestamp())


def check_name(name: str) -> str | None:
    """What is wrong with the name of a file in a release, or None."""
    parts = name.split("/")
    if len(name) > MAX_NAME:
        return f"a name of more than {MAX_NAME} characters"
    if len(parts) > MAX_DEPTH:
        return f"deeper than {MAX_DEPTH} directories"
    if not all(_COMPONENT.fullmatch(part) for part in parts):
        return "a name may have letters, digits, _ . + - and no component that begins with a dot"
    return None


def is_allowed(name: str) -> bool:
    """Whether content may have a file of this name: rules, samples, lists, golden recording."""
    rules = name.startswith("rules/") and name.endswith((".yml", ".yaml"))
    return rules or name == _EXPECTED or is_recording(name) or list_name(name) is not None


def is_recording(name: str) -> bool:
    """Whether it is a golden recording."""
    return _RECORDING.fullmatch(name) is not None


def list_name(name: str) -> str | None:
    """The placeholder whose values a file ``lists/NAME.txt`` has; None for any other file."""
    match = _LIST.fullmatch(name)
    return match[1] if match else None


def max_size(name: str) -> int:
    """Largest size of a file of this name."""
    return MAX_RECORDING if name.startswith("golden/") else MAX_FILE


def parse(data: bytes, path: str = NAME) -> Manifest:
    """Read a manifest; *path* is for messages. Raises ContentError, and nothing else."""
    if len(data) > MAX_MANIFEST:
        raise ContentError(path, None, f"larger than {MAX_MANIFEST} bytes")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_float=_refuse, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ContentError(path, error.lineno, f"no JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ContentError(path, None, f"no manifest: {str(error)[:200]}") from None
    try:
        return _manifest(value)
    except _Wrong as error:
        raise ContentError(path, None, str(error)) from None


class _Wrong(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"the number {text[:32]} is not a whole one")


def _manifest(value: Any) -> Manifest:
    if not isinstance(value, dict):
        raise _Wrong("not a mapping")
    unknown, missing = set(value) - _KEYS, _KEYS - set(value)
    if unknown or missing:
        what = f"unknown key {min(unknown)[:64]!r}" if unknown else f"no key {min(missing)!r}"
        raise _Wrong(f"{what}: a manifest of another version?")
    if value["format"] != FORMAT:
        raise _Wrong(f"format {value['format']!r} is not known here, only {FORMAT}: update the sensor")
    if value["kind"] not in (RELEASE, REVOCATION):
        raise _Wrong(f"kind must be {RELEASE} or {REVOCATION}")
    name = value["name"]
    if not isinstance(name, str) or not _WORD.fullmatch(name):
        raise _Wrong("name must be one word of letters, digits, . _ -")
    revokes = value["revokes"]
    if not isinstance(revokes, list) or len(revokes) > MAX_REVOKED or not all(_is_hash(each) for each in revokes):
        raise _Wrong(f"revokes must be a list of at most {MAX_REVOKED} ids of releases")
    files = _files(value["files"])
    if value["kind"] == REVOCATION and files:
        raise _Wrong("a revocation has no files")
    return Manifest(name, _number(value, "version", 1, MAX_VERSION), _number(value, "schema", 1, 1 << 31),
                    _expiry(value["expires"]), files, tuple(revokes), value["kind"])


def _number(value: dict[str, Any], key: str, low: int, high: int) -> int:
    number = value[key]
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise _Wrong(f"{key} must be a whole number from {low} to {high}")
    return number


def _expiry(text: Any) -> int:
    try:
        return parse_time(text)
    except (TypeError, ValueError, OverflowError):
        raise _Wrong("expires must be a time like 2027-01-31T00:00:00Z") from None


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _files(value: Any) -> dict[str, File]:
    if not isinstance(value, dict) or len(value) > MAX_FILES:
        raise _Wrong(f"files must be a mapping of at most {MAX_FILES} names")
    files: dict[str, File] = {}
    for name, entry in value.items():
        if fault := check_name(name):
            raise _Wrong(f"file {name[:MAX_NAME]!r}: {fault}")
        if not is_allowed(name):
            raise _Wrong(f"file {name!r}: content is rules/*.yml, lists/*.txt, golden/*.jsonl; nothing else is taken")
        if not isinstance(entry, dict) or set(entry) != {"sha256", "size"} or not _is_hash(entry["sha256"]):
            raise _Wrong(f"file {name!r}: sha256 and size expected")
        files[name] = File(entry["sha256"], _number(entry, "size", 0, max_size(name)))
    if sum(file.size for file in files.values()) > MAX_TOTAL:
        raise _Wrong(f"the files together are larger than {MAX_TOTAL} bytes")
    return files


def check_files(manifest: Manifest, files: Mapping[str, bytes], path: str) -> None:
    """Every file is the one that the manifest means, and there is no other. Raises ContentError."""
    there = set(files) - {NAME, SIGNATURES}
    for name in sorted(set(manifest.files) - there):
        raise ContentError(f"{path}/{name}", None, "is in the manifest and not in the release")
    for name in sorted(there - set(manifest.files)):
        raise ContentError(f"{path}/{name}", None, "is in the release and not in its manifest")
    for name, meant in manifest.files.items():
        if hashlib.sha256(files[name]).hexdigest() != meant.sha256:
            raise ContentError(f"{path}/{name}", None, "is not the file that was packed: its hash differs")
