"""Releases over The Update Framework: a repository on a loopback server, and everything a server may try."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.cli import call
from sensor.config import Content
from sensor.content import publish, signing, store, update
from sensor.content import state as states
from sensor.content.publish import Order
from sensor.content.update import Refused
from sensor.errors import HostError, UsageError
from tests.unit.content_helpers import PUBLIC, id_of, release, source

pytest.importorskip("tuf.ngclient", reason="the extra `content` is not installed")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Says nothing on stderr."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


class Repository:
    """A publisher, a server and one host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.www, self.home = folder, folder / "www", str(folder / "home")
        self.keys = {}
        for name in ("root", "online", "other"):
            pem, _ = signing.generate()
            self.keys[name] = str(folder / f"{name}.key")
            Path(self.keys[name]).write_bytes(pem)
        self.source = source(folder / "source")
        self.publish(1, root=True)
        shutil.copy(self.www / "metadata/1.root.json", folder / "root.json")
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *rest: Handler(*rest, directory=str(self.www)))
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.settings = Content(keys=(PUBLIC,), root=str(folder / "root.json"),
                                repository=f"http://127.0.0.1:{self.server.server_port}")

    def publish(self, version: int | None = None, *, ring: str = "stable", root: bool = False, key: str = "online",
                hours: int = 48) -> dict[str, int]:
        added = {}
        if version is not None:
            added[f"{ring}/rules.tar.zst"] = str(release(self.source, self.folder / f"{version}.tar.zst", version))
        return publish.publish(str(self.www), Order(self.keys[key], self.keys["root"] if root else None, added, hours))

    def update(self) -> list[str]:
        return update.update(self.settings, self.home)

    def keep(self) -> Path:
        """A copy of the server as it is now, for an attacker to offer later."""
        return Path(shutil.copytree(self.www, self.folder / "old"))

    def offer(self, old: Path) -> None:
        shutil.rmtree(self.www)
        shutil.copytree(old, self.www)

    def target(self) -> Path:
        """The newest published file."""
        return max((self.www / "targets/stable").iterdir(), key=lambda path: path.stat().st_mtime_ns)

    def have(self) -> str:
        """The id of what the host has."""
        return id_of(Path(self.home, "targets/stable%2Frules.tar.zst"))


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    made = Repository(tmp_path)
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def test_a_new_release_is_fetched_once_and_stages_as_any_other(repository: Repository) -> None:
    """Then the next one; and a ring sees its own."""
    [path] = repository.update()
    assert repository.update() == []
    place = str(repository.folder / "store")
    store.stage(path, place, repository.settings, {})
    assert states.read(place).releases[repository.have()]["version"] == 1
    assert store.seen(path, place, repository.settings) == "was staged before"
    repository.publish(2)
    repository.publish(3, ring="canary")
    [path] = repository.update()
    assert store.seen(path, place, repository.settings) == ""
    assert id_of(Path(path)) == id_of(repository.folder / "2.tar.zst")
    repository.settings = replace(repository.settings, ring="canary")
    [path] = repository.update()
    assert id_of(Path(path)) == id_of(repository.folder / "3.tar.zst")


def test_an_old_state_of_the_server_is_refused(repository: Repository) -> None:
    """Rollback attack: everything in it is well signed, and older than what was seen."""
    repository.update()
    old = repository.keep()
    repository.publish(2)
    repository.update()
    newer = repository.have()
    repository.offer(old)
    with pytest.raises(Refused, match="BadVersionNumber"):
        repository.update()
    assert repository.have() == newer


@pytest.mark.hostile("server")
def test_a_server_that_holds_back_what_is_new_is_noticed(repository: Repository) -> None:
    """Freeze attack: the timestamp runs out, and that is an error and not silence."""
    repository.update()
    before = repository.have()
    repository.publish(2, hours=-1)
    with pytest.raises(Refused, match="stale"):
        repository.update()
    assert repository.have() == before


def test_metadata_of_another_key_is_refused(repository: Repository) -> None:
    """Of a repository that somebody else made in its place, root and all."""
    repository.update()
    before = repository.have()
    shutil.rmtree(repository.www)
    repository.keys["root"] = repository.keys["other"]
    repository.publish(9, root=True, key="other")
    for name in ("root.json", "1.root.json"):  # the root that hosts trust, in front of the rest
        shutil.copy(repository.folder / "root.json", repository.www / "metadata" / name)
    with pytest.raises(Refused, match="refused: "):
        repository.update()
    assert repository.have() == before


@pytest.mark.hostile("server")
def test_a_file_that_is_cut_short_changed_or_too_long_is_refused(repository: Repository) -> None:
    """The length and the hash are in the signed metadata."""
    repository.update()
    before = repository.have()
    repository.publish(2)
    target = repository.target()
    data = target.read_bytes()
    for other in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), data + b"x", data + bytes(1 << 20)):
        target.write_bytes(other)
        with pytest.raises(Refused):
            repository.update()
        assert repository.have() == before
    target.write_bytes(data)
    assert len(repository.update()) == 1


def test_a_release_larger_than_a_sensor_takes_is_not_even_fetched(
        repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """However well it is signed."""
    monkeypatch.setattr(update, "MAX_ARCHIVE", 10)
    with pytest.raises(Refused, match="10 is the most"):
        repository.update()
    assert not Path(repository.home, "targets/stable%2Frules.tar.zst").exists()


@pytest.mark.hostile("server")
def test_a_swollen_timestamp_is_cut_off(repository: Repository) -> None:
    """The server can't fill the host: metadata have a largest size too."""
    (repository.www / "metadata/timestamp.json").write_bytes(b" " * (8 << 20))
    with pytest.raises(Refused):
        repository.update()


@pytest.mark.parametrize("data", [b"", b"[" * 10_000, b"{}", b'{"signatures": [], "signed": {}}'])
def test_metadata_that_are_none_are_refused(repository: Repository, data: bytes) -> None:
    """In the words of an operator, not in a traceback."""
    (repository.www / "metadata/timestamp.json").write_bytes(data)
    with pytest.raises(Refused):
        repository.update()


@pytest.mark.hostile("server")
def test_an_unreachable_repository_is_the_hosts_problem(repository: Repository) -> None:
    """Exit status 3; what is there goes on."""
    repository.settings = replace(repository.settings, repository=f"{repository.settings.repository}/nowhere")
    with pytest.raises((HostError, Refused)):
        repository.update()
    with pytest.raises(UsageError, match="off"):
        update.update(Content(), repository.home)
    with pytest.raises(UsageError, match="root"):
        update.update(replace(repository.settings, root="/nonexistent"), repository.home)


def test_the_online_key_can_be_replaced_by_the_root_key(repository: Repository) -> None:
    """Hosts follow; without the root key nobody can."""
    repository.update()
    with pytest.raises(UsageError, match="--root-key"):
        repository.publish(2, key="other")
    assert repository.publish(2, key="other", root=True)["root"] == 2
    assert len(repository.update()) == 1


def test_commands_publish_update_and_stage(repository: Repository, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """As the timer runs them, twice: the second time there is nothing to do and that is well."""
    settings, place = repository.folder / "s.yaml", str(repository.folder / "store")
    values = {"keys": [PUBLIC], "repository": repository.settings.repository, "root": repository.settings.root}
    settings.write_text(json.dumps({"content": values}))
    archive = str(release(repository.source, repository.folder / "7.tar.zst", 7))
    assert call(["content", "publish", str(repository.www), "--key", repository.keys["online"], "--add", archive]) == 0
    monkeypatch.setattr(update, "HOME", repository.home)
    for _ in range(2):
        assert call(["content", "update", "-c", str(settings), "--home", repository.home]) == 0
        assert call(["rules", "stage", "--fetched", "-c", str(settings), "--store", place]) == 0
    assert "was staged before" in capsys.readouterr().out
    assert states.read(place).releases[id_of(Path(archive))]["version"] == 7
    assert call(["rules", "stage", "-c", str(settings), "--store", place]) == 2
    assert call(["content", "publish", str(repository.www), "--key", archive]) == 2
    assert call(["content", "publish", str(repository.folder / "new"), "--key", repository.keys["online"]]) == 2
    assert os.path.exists(repository.home)
