"""From a foreign release to one that lies in the store: verified, checked, written, then staged.

Nothing of what runs is touched before everything has succeeded, and the last step is one rename.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sensor import privileges, schema
from sensor.config import Content
from sensor.content import manifest, sandbox, signing, state, tasks
from sensor.content.check import STEPS
from sensor.content.manifest import Manifest
from sensor.errors import ContentError, HostError, UsageError

_UNPACK = sandbox.Limits(answer=manifest.MAX_TOTAL + (8 << 20))


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release in memory. ``signers`` is empty where its path is trusted instead."""

    id: str
    path: str
    manifest: Manifest
    signers: tuple[str, ...]
    files: Mapping[str, bytes] = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """What the state keeps of it."""
        return {"name": self.manifest.name, "version": self.manifest.version, "expires": self.manifest.expires,
                "signers": list(self.signers)}


def open_release(path: str, settings: Content) -> Release:
    """Unpack and verify. Raises ContentError with the reason why it is none, UsageError where it isn't there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    try:
        outcome = sandbox.run("sensor.content.tasks:unpack", {"path": path}, [fd], _UNPACK)
        trusted = _is_trusted(fd, settings.trusted)
    finally:
        os.close(fd)
    if outcome.reason:
        told = outcome.reason.startswith(path)
        raise ContentError(path, None, outcome.reason[len(path) + 2:] if told else f"reading it {outcome.reason}")
    return verified(tasks.pieces(outcome.answer, path), path, settings, trusted=trusted)


def _is_trusted(fd: int, trusted: Sequence[str]) -> bool:
    """Whether what was opened lies below a path of the settings, by its real place."""
    place = os.readlink(f"/proc/self/fd/{fd}")
    return any(place == each.rstrip("/") or place.startswith(each.rstrip("/") + "/") for each in trusted)


def verified(files: Mapping[str, bytes], path: str, settings: Content, *, trusted: bool = False) -> Release:
    """Files that are what their manifest says, signed by enough keys. Raises ContentError."""
    if manifest.NAME not in files:
        raise ContentError(path, None, f"there is no {manifest.NAME} in it", "sensor content pack makes a release")
    raw = files[manifest.NAME]
    signers: tuple[str, ...] = ()
    if not trusted or files.get(manifest.SIGNATURES):
        signers = signing.verify(raw, files.get(manifest.SIGNATURES, b""), settings.keys, settings.threshold, path)
    about = manifest.parse(raw, f"{path}/{manifest.NAME}")
    manifest.check_files(about, files, path)
    if about.schema > schema.VERSION:
        raise ContentError(f"{path}/{manifest.NAME}", None, f"needs event schema {about.schema}, this sensor has "
                           f"{schema.VERSION}", "update the sensor first")
    return Release(manifest.release_id(raw), path, about, signers, files)


def check(folder: str, path: str, settings: Content, placeholders: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Report of check.py on the release that lies in *folder*. Raises ContentError where it may not run."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    arguments = {"path": path, "event_us": settings.event_us,
                 "placeholders": {name: list(values) for name, values in placeholders.items()}}
    limits = sandbox.Limits(cpu=settings.check_seconds, wall=settings.check_seconds * 10.0)
    try:
        outcome = sandbox.run("sensor.content.check:check", arguments, [fd], limits)
    finally:
        os.close(fd)
    lines = outcome.answer.decode("utf-8", "replace").splitlines()
    if outcome.reason:
        step = lines[-1] if lines and lines[-1] in STEPS else "start"
        raise ContentError(path, None, f"checking it, step {step}: it {outcome.reason}")
    try:
        report: dict[str, Any] = json.loads(lines[-1])
        reasons = [str(reason) for reason in report["refused"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ContentError(path, None, "the check gave an answer that makes no sense") from None
    if reasons:
        raise ContentError(path, None, "refused\n  " + "\n  ".join(reasons))
    return report


# --- on disk -------------------------------------------------------------------------------------


def place(store: str, release: str) -> str:
    """Directory of a release in the store."""
    return os.path.join(store, state.RELEASES, release)


def prepare(store: str) -> None:
    """Make the store. Raises HostError where that can't be done."""
    try:
        releases = os.path.join(store, state.RELEASES)
        os.makedirs(releases, 0o755, exist_ok=True)
        for name in os.listdir(releases):
            if name.startswith(".new-"):  # of a process that was killed
                shutil.rmtree(os.path.join(releases, name), ignore_errors=True)
    except OSError as error:
        raise HostError(f"{store}: {error.strerror}", "run it as root, or name another place: --store") from error


def write(store: str, release: Release) -> str:
    """Write a release to a directory of no name yet, synchronised. Returns it. Raises HostError."""
    folder = tempfile.mkdtemp(prefix=".new-", dir=os.path.join(store, state.RELEASES))
    group = privileges.ids_of()[1] if os.geteuid() == 0 else -1
    try:
        for name, data in release.files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for below, _, names in os.walk(folder, topdown=False):
            # What is looked for is for the engine to read, and for nobody else.
            for each, mode in ((below, 0o750), *((os.path.join(below, name), 0o640) for name in names)):
                os.chmod(each, mode)
                os.chown(each, -1, group)
            state.sync_directory(below)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise HostError(f"{folder}: {error.strerror}", f"make room in {store}") from error
    return folder


def keep(store: str, folder: str, release: str) -> None:
    """Give a written release its name; what lies under that name already is the same by its hash, or broken."""
    final = place(store, release)
    if os.path.exists(final):
        shutil.rmtree(final)
    os.rename(folder, final)
    state.sync_directory(os.path.dirname(final))


def stage(path: str, store: str, settings: Content, placeholders: Mapping[str, Sequence[str]], *,
          downgrade: bool = False, retry: bool = False) -> tuple[Release, dict[str, Any]]:
    """Everything from a foreign path to the stage ``shadow``.

    A revocation is carried out and not staged.

    Returns:
        The release, and the report of its check.

    Raises:
        ContentError: It may not run; what runs stays. An id that is known is remembered as bad.
        HostError: No room, or no right to write.
    """
    try:
        return _stage(path, store, settings, placeholders, downgrade=downgrade, retry=retry)
    except OSError as error:
        raise HostError(f"{store}: {error.strerror}", f"make room in {store}") from error


def _stage(path: str, store: str, settings: Content, placeholders: Mapping[str, Sequence[str]], *, downgrade: bool,
           retry: bool) -> tuple[Release, dict[str, Any]]:
    prepare(store)
    try:
        release = open_release(path, settings)
    except ContentError:
        _count_refused(store, None)
        raise
    now = time.time()
    if release.manifest.revokes:
        with state.changing(store) as current:
            state.revoke(current, list(release.manifest.revokes), now)
    if release.manifest.kind == manifest.REVOCATION:
        return release, {"revoked": len(release.manifest.revokes)}
    _may_run(store, release, now, downgrade=downgrade, retry=retry)
    folder = write(store, release)
    try:
        try:
            report = check(folder, path, settings, placeholders)
        except ContentError:
            _count_refused(store, release.id)
            raise
        with state.changing(store) as current:
            state.stage(current, release.id, release.facts(), now, downgrade=downgrade, retry=retry)
            state.loaded(current)
            keep(store, folder, release.id)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    prune(store)
    return release, report


def seen(path: str, store: str, settings: Content) -> str:
    """Why a release need not be staged: it runs, ran, was taken back, or an older one is. Empty if it is new.

    Raises as :func:`open_release`.
    """
    release, current = open_release(path, settings), state.read(store)
    if release.id in current.bad:
        return f"is not tried again ({current.bad[release.id]})"
    if release.id in current.releases:
        return "was staged before"
    if release.manifest.kind == manifest.REVOCATION:
        return "" if set(release.manifest.revokes) - set(current.bad) else "is carried out already"
    return "is not newer than what was here" if release.manifest.version <= current.floor else ""


def _may_run(store: str, release: Release, now: float, *, downgrade: bool, retry: bool) -> None:
    """Refuse by what is known without the files: cheaper, and nothing of a poisoned release is read again."""
    if release.manifest.expires <= now:
        raise ContentError(release.path, None, f"expired at {manifest.time_text(release.manifest.expires)}",
                           "ask its publisher for a newer one")
    trying = state.read(store)
    state.stage(trying, release.id, release.facts(), now, downgrade=downgrade, retry=retry)


def _count_refused(store: str, release: str | None) -> None:
    with state.changing(store) as current:
        state.refused(current, release)


def prune(store: str) -> None:
    """Remove releases that nothing can return to, from disk and from the state; a failure costs room only."""
    with state.changing(store) as current:
        wanted = {each for each in (current.current, current.staged, *current.good) if each}
        current.releases = {each: facts for each, facts in current.releases.items() if each in wanted}
        current.bad = dict(list(current.bad.items())[-manifest.MAX_REVOKED * 2:])
    for name in os.listdir(os.path.join(store, state.RELEASES)):
        if name not in wanted:
            shutil.rmtree(os.path.join(store, state.RELEASES, name), ignore_errors=True)
