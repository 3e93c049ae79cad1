"""Compiled rules on disk, so that a start with rules that were seen before parses none.

What is kept is the plain data of rules/plain.py under the hash of everything that it was made from: the
files' names and bytes, the settings, the code. A directory or file that another user could have written is
not read, whatever is in it; one that is damaged is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor import __version__, schema
from sensor.rules import files, plain
from sensor.rules.model import Options, RuleSet

RESULTS = ("hit", "miss", "damaged", "untrusted", "unwritable")
_KEPT = 8  # rule sets that somebody goes back and forth between
_PREFIX, _DIGEST = "rules-", hashlib.sha256
_NOBODY = 65534  # whoever else runs as nobody can write what nobody owns


def user_home() -> Path:
    """Where a person's commands keep compiled rules (XDG Base Directory)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if base.startswith("/") else os.path.expanduser("~/.cache")) / "sensor"


def code_stamp() -> str:
    """Of the code that turns files into rules: ours and pySigma's, and Python's tables of characters."""
    parts = [__version__, schema.ABI, sys.version]
    for name in ("sensor", "sigma"):
        spec = importlib.util.find_spec(name)  # found, not imported
        for place in (spec.submodule_search_locations or ()) if spec else ():
            parts += _stamps(place) if name == "sensor" else _stamp(os.path.join(place, "__init__.py"))
    return _hash(*parts)


def _stamps(place: str) -> Iterator[str]:
    for folder, below, names in os.walk(place):
        below.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                yield from _stamp(os.path.join(folder, name), os.path.relpath(os.path.join(folder, name), place))


def _stamp(path: str, name: str = "") -> list[str]:
    try:
        made = os.stat(path)
    except OSError:
        return [name, "absent"]
    return [name, str(made.st_mtime_ns), str(made.st_size)]


def key_of(gathered: files.Gathered, options: Options, stamp: str) -> str:
    """Name of everything that a rule set is made from."""
    settings = json.dumps([sorted(options.placeholders.items()), options.pipelines, plain.FORMAT])
    return _hash(stamp, settings, hashlib.sha256(gathered.dump()).hexdigest())


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]


class RuleCache:
    """Compiled rule sets in a directory of this user's. Without one, nothing is kept.

    ``counts`` has what became of each look-up and each write that failed.
    """

    def __init__(self, home: Path | None, stamp: str | None = None) -> None:
        self._home = home if os.geteuid() != _NOBODY else None
        self._stamp = stamp
        self.counts = dict.fromkeys(RESULTS, 0)

    def load(self, gathered: files.Gathered, options: Options,
             compile_rules: Callable[[files.Gathered, Options], RuleSet]) -> RuleSet:
        """The rules of the files, compiled before or now. Raises what *compile_rules* raises."""
        key = self.key(gathered, options)
        rules = self.get(key)
        if rules is None:
            rules = compile_rules(gathered, options)
            if self._home is not None:
                self.put(key, plain.dump(rules))
        return rules

    def key(self, gathered: files.Gathered, options: Options) -> str:
        """Name of a rule set."""
        if self._stamp is None:
            self._stamp = code_stamp()
        return key_of(gathered, options, self._stamp)

    def get(self, key: str) -> RuleSet | None:
        """What was compiled before, or None: not there, not this user's alone, or damaged."""
        data = self._read(key)
        if data is None:
            return None
        digest, _, body = data.partition(b"\n")
        try:
            if digest != _DIGEST(body).hexdigest().encode():
                raise plain.NotPlain("not what was written")
            rules = plain.load(body)
        except plain.NotPlain:
            self.counts["damaged"] += 1
            return None
        self.counts["hit"] += 1
        return rules

    def _read(self, key: str) -> bytes | None:
        if self._home is None:
            return None
        try:
            with _opened(self._home) as folder:
                file = os.open(_PREFIX + key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
                with open(file, "rb") as opened:
                    if not _private(os.fstat(file), stat.S_ISREG):
                        raise Untrusted
                    return opened.read(plain.MAX_BYTES + 100)
        except Untrusted:
            self.counts["untrusted"] += 1
        except OSError:
            self.counts["miss"] += 1
        return None

    def put(self, key: str, body: bytes) -> None:
        """Keep it, whole or not at all; the oldest go. A directory that can't be written is no fault."""
        if self._home is None:
            return
        try:
            _make(self._home)
            with _opened(self._home) as folder:
                place = Path(f"/proc/self/fd/{folder}")
                _write(place, _PREFIX + key, _DIGEST(body).hexdigest().encode() + b"\n" + body)
                _thin(place)
        except (OSError, Untrusted):
            self.counts["unwritable"] += 1


class Untrusted(Exception):
    """Somebody else could have written it."""


@contextmanager
def _opened(home: Path) -> Iterator[int]:
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _private(os.fstat(folder), stat.S_ISDIR):
            raise Untrusted
        yield folder
    finally:
        os.close(folder)


def _private(facts: os.stat_result, kind: Callable[[int], bool]) -> bool:
    return kind(facts.st_mode) and facts.st_uid == os.geteuid() and not stat.S_IMODE(facts.st_mode) & 0o022


def _make(home: Path) -> None:
    if home.is_dir():
        return
    above = home.parent
    if not above.is_dir():
        above.mkdir(mode=0o700)
    # root with somebody else's HOME would leave a directory that its owner can't use.
    if above.stat().st_uid != os.geteuid():
        raise Untrusted
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)


def _write(folder: Path, name: str, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.replace(file.name, folder / name)
        except OSError:
            os.unlink(file.name)
            raise


def _thin(home: Path) -> None:
    kept = sorted(home.glob(_PREFIX + "*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in kept[_KEPT:]:
        old.unlink(missing_ok=True)
