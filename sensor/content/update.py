"""Releases from a repository of The Update Framework, on any static web server.

The framework's own client does the work: signed metadata with versions and expiry, so that neither an old
release, nor a stale server, nor somebody else's or a cut or swollen file is ever taken. It runs apart from
the sensor and without rights, and what it brings is a file: `sensor rules stage` still verifies that as if
it came from anywhere. Source: theupdateframework.github.io/specification.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from sensor.config import Content
from sensor.content.archive import MAX_ARCHIVE
from sensor.errors import HostError, SensorError, UsageError

#: Below the ring's name in the repository: the newest release, and perhaps a revocation.
RELEASE, REVOCATION = "rules.tar.zst", "revocation.tar.zst"
OFF = "off"
HOME = "/var/lib/sensor-update"
_MAX_ROOT = 1 << 20
_SECONDS = 20  # without a byte


class Refused(SensorError):
    """What the repository offers is not taken; what was taken before stays."""


def update(settings: Content, home: str) -> list[str]:
    """Fetch what the repository has for the ring; paths of the files that are new.

    Args:
        settings: Repository, ring and root metadata.
        home: A directory of this process alone, for metadata and files.

    Raises:
        UsageError: The settings name no repository, or no root metadata can be read.
        Refused: Signature, version, expiry, length or hash is wrong.
        HostError: The repository can't be reached, or the client is not installed.
    """
    if settings.repository == OFF:
        raise UsageError("content.repository is off: name the URL of a repository there")
    try:
        import tuf.ngclient
        from tuf.api import exceptions
    except ImportError as error:
        raise HostError(f"the client of The Update Framework is not installed: {error}",
                        "pip install 'sensor[content]'") from error
    metadata, targets = os.path.join(home, "metadata"), os.path.join(home, "targets")
    try:
        os.makedirs(metadata, 0o700, exist_ok=True)
        os.makedirs(targets, 0o755, exist_ok=True)
        base = settings.repository.rstrip("/")
        client = tuf.ngclient.Updater(
            metadata, f"{base}/metadata/", targets, f"{base}/targets/", bootstrap=_root(settings.root),
            fetcher=tuf.ngclient.Urllib3Fetcher(socket_timeout=_SECONDS, app_user_agent="sensor"),
            config=tuf.ngclient.UpdaterConfig(max_root_rotations=64, max_delegations=0))
        client.refresh()
        found = [_fetch(client, f"{settings.ring}/{name}") for name in (REVOCATION, RELEASE)]
    except exceptions.ExpiredMetadataError as error:
        raise Refused(f"{settings.repository}: {error}: the repository is stale, or somebody holds it back\n  what was "
                      "fetched before stays; its publisher renews it with: sensor content publish") from error
    except (exceptions.RepositoryError, exceptions.DownloadLengthMismatchError, ValueError) as error:
        raise Refused(f"{settings.repository}: refused: {type(error).__name__}: {str(error)[:300]}") from error
    except exceptions.DownloadError as error:
        raise HostError(f"{settings.repository}: {type(error).__name__}: {str(error)[:300]}",
                        "check the URL and the way there; the sensor itself needs neither") from error
    except OSError as error:
        raise HostError(f"{home}: {error}", "run it as the user whose directory that is") from error
    return [path for path in found if path is not None]


def _fetch(client: Any, name: str) -> str | None:
    """Path of a file that was fetched, or None where there is none or it is here already."""
    info = client.get_targetinfo(name)
    if info is None:
        return None
    if info.length > MAX_ARCHIVE:
        raise Refused(f"{name}: {info.length} bytes, and {MAX_ARCHIVE} is the most that a release may have")
    if client.find_cached_target(info) is not None:
        return None
    return str(client.download_target(info))


def _root(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_ROOT)
    except OSError as error:
        raise UsageError(f"content.root: {path}: {error.strerror}\n  copy the repository's metadata/1.root.json there, "
                         "by a way that you trust") from error


def fetched(home: str, ring: str) -> list[str]:
    """What was fetched for a ring, the revocation first. Names as the client makes them: quoted, in one directory."""
    places = [os.path.join(home, "targets", quote(f"{ring}/{name}", "")) for name in (REVOCATION, RELEASE)]
    return [place for place in places if os.path.lexists(place)]
