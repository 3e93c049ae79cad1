"""Which release runs, which is tried, which may never run again: one small file, changed as a whole.

Standard library only, for the supervisor reads and writes it: to take a release back it swaps a
name here and opens nothing of the release. Transitions are functions of the state alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sensor.errors import UsageError

STORE = "/var/lib/sensor/content"
KILL_FILE = "/etc/sensor/content.disable"
FILE, RELEASES, LOCK = "state.json", "releases", ".lock"
FORMAT = 1
SHADOW, CANARY, ACTIVE = "shadow", "canary", "active"
STAGES = (SHADOW, CANARY, ACTIVE)
#: Why a release was taken back; labels of a metric.
REASONS = ("crash", "load", "fault", "evaluation_time", "alert_rate", "loss", "revoked", "operator")
TRIALS = 2  # starts of the engine with a release on trial; the third is without it
_KEPT = 5  # known good releases
_JOURNAL = 32
_MAX_BYTES = 1 << 20
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class State:
    """Everything that outlives a restart. Releases are named by id; times are seconds since 1970.

    ``good`` are the known good ones, newest last; the last of them is what a rollback returns to, and
    an empty list means the built-in rules. ``current`` is on trial until it is the last of ``good``.
    """

    current: str | None = None
    good: list[str] = field(default_factory=list)
    staged: str | None = None
    stage: str = ""  # of ``staged``: shadow or canary
    changed: float = 0.0
    trials: int = 0  # engine starts with what is on trial, none of which has lasted
    floor: int = 0  # highest version ever taken
    bad: dict[str, str] = field(default_factory=dict)  # id -> reason: never run again
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)  # id -> name, version, expires, signers
    rollbacks: dict[str, int] = field(default_factory=dict)
    loads: dict[str, int] = field(default_factory=dict)  # result -> how many
    journal: list[dict[str, Any]] = field(default_factory=list)
    serial: int = 0  # of the newest journal entry
    told: int = 0  # up to which the engine has made events of them

    @property
    def trial(self) -> str | None:
        """The release that has to prove itself: staged, or current and not known good."""
        if self.staged is not None:
            return self.staged
        return self.current if self.current not in self.good else None

    @property
    def running(self) -> str | None:
        """The release whose rules raise alerts; None is the built-in rules."""
        return self.staged if self.stage == CANARY else self.current

    @property
    def label(self) -> str:
        """Stage of the newest release; empty where none is there."""
        return self.stage or (ACTIVE if self.current else "")


def _note(state: State, action: str, release: str | None, now: float, reason: str = "") -> None:
    facts = state.releases.get(release or "", {})
    state.serial += 1
    state.changed = now
    state.journal.append({"serial": state.serial, "at": int(now), "action": action, "release": release or "built-in",
                          "version": facts.get("version", 0), "stage": state.label, "reason": reason})
    del state.journal[:-_JOURNAL]


def stage(state: State, release: str, facts: dict[str, Any], now: float, *, downgrade: bool = False,
          retry: bool = False) -> None:
    """Put a release into shadow. Raises UsageError where it may not run."""
    if retry:
        state.bad.pop(release, None)
    if release in state.bad:
        raise UsageError(f"release {release[:12]} was taken back before ({state.bad[release]}) and is not tried again"
                         "\n  if you know better: --retry")
    version = facts["version"]
    if release == state.current:
        raise UsageError(f"release {release[:12]} runs already")
    known = release in state.releases or retry
    if not downgrade and (version < state.floor or (version == state.floor and not known)):
        raise UsageError(f"version {version} is not above {state.floor}, which was here before"
                         "\n  if an older one is meant: --allow-downgrade")
    if state.trial not in (None, release) and state.staged is None:
        raise UsageError(f"release {str(state.current)[:12]} is still on trial\n  sensor rules promote, or rollback")
    state.releases[release] = facts
    state.floor = version if downgrade else max(state.floor, version)
    state.staged, state.stage, state.trials = release, SHADOW, 0
    _note(state, "staged", release, now)


def promote(state: State, now: float) -> str:
    """One step on: shadow, canary, active, known good. Returns the step. Raises UsageError where none is left."""
    state.trials = 0
    if state.stage == SHADOW:
        state.stage = CANARY
        _note(state, "promoted", state.staged, now)
    elif state.stage == CANARY:
        state.current, state.staged, state.stage = state.staged, None, ""
        _note(state, "promoted", state.current, now)
    elif state.trial is not None:
        state.good = [*(each for each in state.good if each != state.current), state.trial][-_KEPT:]
        _note(state, "known_good", state.current, now)
        return "known good"
    else:
        raise UsageError("no release is on trial\n  sensor rules stage RELEASE")
    return state.label


def rollback(state: State, reason: str, now: float, release: str | None = None) -> str:
    """Leave a release (default: on trial, else current) for what is known good, and never return to it.

    Returns its id. Raises UsageError where there is nothing to leave.
    """
    left = release or state.trial or state.current
    if left is None or left not in (state.staged, state.current):
        raise UsageError("no release runs: these are the built-in rules already")
    if left == state.staged:
        state.staged, state.stage = None, ""
    else:
        state.good = [each for each in state.good if each != left]
        state.current = state.good[-1] if state.good else None
    state.bad[left] = reason
    state.trials = 0
    state.rollbacks[reason] = state.rollbacks.get(reason, 0) + 1
    _note(state, "rolled_back", left, now, reason)
    return left


def revoke(state: State, revoked: Iterator[str] | list[str], now: float) -> list[str]:
    """Never run these again; leaves those that run. Returns the ids that are new."""
    new = [each for each in revoked if state.bad.get(each) != "revoked"]
    for each in new:
        state.bad[each] = "revoked"
        state.good = [good for good in state.good if good != each]
    for each in new:
        if each in (state.staged, state.current):
            rollback(state, "revoked", now, each)
    return new


def refused(state: State, release: str | None) -> None:
    """Count a release that could not be taken, and remember it by its id if it has one."""
    state.loads["refused"] = state.loads.get("refused", 0) + 1
    if release is not None:
        state.bad[release] = "load"


def loaded(state: State) -> None:
    """Count one that was taken."""
    state.loads["loaded"] = state.loads.get("loaded", 0) + 1


# --- the file ------------------------------------------------------------------------------------


def read(store: str) -> State:
    """The state as it lies there; an empty one where there is none. Raises UsageError where it is broken."""
    path = os.path.join(store, FILE)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    try:
        return _state(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: broken: {str(error)[:200]}\n  the built-in rules run; move the file away and "
                         "stage a release again") from None


def _state(value: Any) -> State:
    if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
        raise ValueError(f"not of format {FORMAT}")
    plain = State()
    for item in fields(State):
        found, default = value.pop(item.name, None), getattr(plain, item.name)
        wanted = (str, type(None)) if item.name in ("current", "staged") else type(default)
        if not isinstance(found, wanted) and not (item.name == "changed" and isinstance(found, int)):
            raise ValueError(f"{item.name} is missing or of another type")
        setattr(plain, item.name, found)
    named = [plain.current, plain.staged, *plain.good, *plain.bad, *plain.releases]
    if value or plain.stage not in ("", SHADOW, CANARY) or bool(plain.stage) != (plain.staged is not None):
        raise ValueError("keys or stages that don't fit together")
    if not all(each is None or (isinstance(each, str) and _ID.fullmatch(each)) for each in named):
        raise ValueError("an id of a release is none")
    return plain


def write(store: str, state: State) -> None:
    """Replace the file in one step; after a power cut it is the old one or the new one. Raises OSError."""
    data = json.dumps({"format": FORMAT, **asdict(state)}, indent=1).encode()
    fd, path = tempfile.mkstemp(prefix=".state-", dir=store)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.rename(path, os.path.join(store, FILE))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    sync_directory(store)


def sync_directory(path: str) -> None:
    """Make renames in a directory last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def changing(store: str, wait: float = 5.0) -> Iterator[State]:
    """The state, to be changed by one process at a time; written when the block ends without an exception.

    Raises:
        UsageError: The state is broken, or somebody else holds it for longer than *wait* seconds.
        OSError: It can't be written.
    """
    fd = os.open(os.path.join(store, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(fd, time.monotonic() + wait, store)
        state = read(store)
        yield state
        write(store, state)
    finally:
        os.close(fd)


def _lock(fd: int, until: float, store: str) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise UsageError(f"{store}: another sensor command is changing it; try again") from None
            time.sleep(0.05)
        else:
            return


def default_store() -> str:
    """Where releases are kept: below the state directory that the service manager made, else /var/lib/sensor."""
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return str(Path(folder) / "content") if folder.startswith("/") else STORE
