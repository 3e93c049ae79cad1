"""The publisher's side of The Update Framework: a directory that any static web server can offer.

    metadata/  root.json, N.root.json, N.targets.json, N.snapshot.json, timestamp.json
    targets/   RING/HASH.rules.tar.zst

Two keys: that of the root, which hosts trust and which is needed once a year, and that of everything
else, which signs each publication.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensor.content.archive import MAX_ARCHIVE
from sensor.errors import HostError, UsageError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

_ROLES = ("timestamp", "snapshot", "targets")
_ROOT_DAYS, _TARGETS_DAYS = 365, 180


@dataclass(frozen=True, slots=True)
class Order:
    """What to publish. ``added`` maps names of targets (RING/FILE) to paths; ``hours`` until the timestamp expires."""

    key: str
    root_key: str | None
    added: Mapping[str, str]
    hours: int


def publish(directory: str, order: Order) -> dict[str, int]:
    """Make the repository, or the next version of it. Returns version by role.

    Without anything added, the expiry is renewed.

    Raises:
        UsageError: A key, a release or the repository is not what it should be.
        HostError: The library is not installed, or no file can be written.
    """
    try:
        import tuf.api.metadata as api
    except ImportError as error:
        raise HostError(f"the library of The Update Framework is not installed: {error}",
                        "pip install 'sensor[content]'") from error
    place = Path(directory)
    try:
        repository = _Repository(api, place, _signer(order.key))
        repository.root(_signer(order.root_key) if order.root_key else None)
        repository.publish(order)
    except OSError as error:
        raise HostError(f"{directory}: {error}", "name a directory that you may write to") from error
    return repository.versions


def _signer(path: str) -> CryptoSigner:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    try:
        key = load_pem_private_key(Path(path).read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is no private key: {str(error)[:200]}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is no Ed25519 key; make one: sensor content keygen FILE")
    return CryptoSigner(key)


class _Repository:
    """One directory. ``api`` is tuf.api.metadata."""

    def __init__(self, api: Any, place: Path, signer: CryptoSigner) -> None:
        self._api, self._place, self._signer = api, place, signer
        self.versions: dict[str, int] = {}
        (place / "metadata").mkdir(parents=True, exist_ok=True)
        (place / "targets").mkdir(exist_ok=True)

    def root(self, signer: CryptoSigner | None) -> None:
        """The first root, or the next one where its key is given."""
        there = self._read("root")
        if there is None and signer is None:
            raise UsageError(f"{self._place} is no repository yet: --root-key makes it one")
        if signer is not None:
            self._sign_root(there, signer)
        elif self._signer.public_key.keyid not in there.signed.roles["timestamp"].keyids:
            raise UsageError("--key is not the key that this repository's root names for publishing\n  "
                             "name it with --root-key, and hosts will follow")

    def _sign_root(self, there: Any, signer: CryptoSigner) -> None:
        api = self._api
        root = api.Root(consistent_snapshot=True)
        if there is not None:
            if signer.public_key.keyid not in there.signed.roles["root"].keyids:
                raise UsageError("--root-key is not the key of this repository's root")
            root.version = there.signed.version + 1
        root.expires = _in(days=_ROOT_DAYS)
        root.add_key(signer.public_key, "root")
        for role in _ROLES:
            root.add_key(self._signer.public_key, role)
        made = api.Metadata(root)
        made.sign(signer)
        data = made.to_bytes()
        self._write(f"{root.version}.root.json", data)
        self._write("root.json", data)
        self.versions["root"] = root.version

    def publish(self, order: Order) -> None:
        """Targets, snapshot, timestamp: in this order, so that a reader in between sees the old version whole."""
        api = self._api
        targets = self._read("targets") or self._none(api.Targets())
        for name, path in order.added.items():
            data = Path(path).read_bytes()
            if len(data) > MAX_ARCHIVE:
                raise UsageError(f"{path}: larger than {MAX_ARCHIVE} bytes, which no sensor takes")
            info = api.TargetFile.from_data(name, data, ["sha256"])
            targets.signed.targets[name] = info
            folder, _, base = name.rpartition("/")
            (self._place / "targets" / folder).mkdir(parents=True, exist_ok=True)
            _replace(self._place / "targets" / folder / f"{info.hashes['sha256']}.{base}", data)
        targets_version = self._next(targets, _in(days=_TARGETS_DAYS))
        self._write(f"{targets_version}.targets.json", targets.to_bytes())
        snapshot = self._read("snapshot") or self._none(api.Snapshot())
        snapshot.signed.meta["targets.json"] = api.MetaFile(version=targets_version)
        snapshot_version = self._next(snapshot, _in(days=_TARGETS_DAYS))
        self._write(f"{snapshot_version}.snapshot.json", snapshot.to_bytes())
        timestamp = self._read("timestamp") or self._none(api.Timestamp())
        timestamp.signed.snapshot_meta = api.MetaFile(version=snapshot_version)
        timestamp_version = self._next(timestamp, _in(hours=order.hours))
        self._write("timestamp.json", timestamp.to_bytes())
        self.versions |= {"targets": targets_version, "snapshot": snapshot_version, "timestamp": timestamp_version}

    def _none(self, signed: Any) -> Any:
        """Metadata before the first version."""
        signed.version = 0
        return self._api.Metadata(signed)

    def _next(self, metadata: Any, expires: datetime) -> int:
        metadata.signed.version += 1
        metadata.signed.expires = expires
        metadata.sign(self._signer)
        return int(metadata.signed.version)

    def _read(self, role: str) -> Any:
        """The newest metadata of a role, or None."""
        folder = self._place / "metadata"
        numbered = sorted(int(path.name.partition(".")[0]) for path in folder.glob(f"*.{role}.json")
                          if path.name.partition(".")[0].isdecimal())
        name = f"{role}.json" if role in ("root", "timestamp") else f"{numbered[-1]}.{role}.json" if numbered else ""
        if not name or not (folder / name).exists():
            return None
        from tuf.api.exceptions import RepositoryError
        from tuf.api.serialization import DeserializationError

        try:
            return self._api.Metadata.from_bytes((folder / name).read_bytes())
        except (RepositoryError, DeserializationError, ValueError) as error:
            raise UsageError(f"{folder / name}: broken: {str(error)[:200]}") from error

    def _write(self, name: str, data: bytes) -> None:
        _replace(self._place / "metadata" / name, data)


def _in(**span: int) -> datetime:
    return (datetime.now(timezone.utc) + timedelta(**span)).replace(microsecond=0)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    os.replace(temporary, path)
