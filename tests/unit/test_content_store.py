"""From a foreign file to a staged release: through real children, with everything that may be wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.cli import call
from sensor.content import archive, manifest, pack, sandbox, signing, store
from sensor.content import state as states
from sensor.content.intact import intact
from sensor.errors import ContentError, HostError, UsageError
from tests.unit import content_helpers
from tests.unit.content_helpers import FAR, OTHER_PEM, OTHER_PUBLIC, PEM, PUBLIC, SETTINGS, id_of, release, source


class Place:
    """A publisher's directory, and a host's store with a known good release in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.store = folder, source(folder / "source"), str(folder / "store")
        self.good = self.stage(release(self.source, folder / "good.tar.zst", 5))
        for _ in range(3):
            with states.changing(self.store) as state:
                states.promote(state, 1.0)

    def stage(self, path: Path, **options: bool) -> str:
        return store.stage(str(path), self.store, SETTINGS, {}, **options)[0].id

    def next(self, **options: object) -> Path:
        """A release of the source as it is now."""
        return release(self.source, self.folder / "next.tar.zst", 6, **options)  # type: ignore[arg-type]

    def state(self) -> states.State:
        return states.read(self.store)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.contract("content-2a")
def test_a_sound_release_is_staged_and_lies_in_the_store_as_it_was(place: Place) -> None:
    """Nothing else changes: it is in shadow."""
    (place.source / "lists/admins.txt").write_text("# who\nann\nbob\n")
    path = place.next()
    taken = place.stage(path)
    assert (place.state().running, place.state().staged, place.state().stage) == (place.good, taken, "shadow")
    assert intact(store.place(place.store, taken), taken).version == 6
    assert place.state().loads == {"loaded": 2}
    assert sorted(os.listdir(Path(place.store, "releases"))) == sorted([place.good, taken])


def broken_rule(place: Place) -> None:
    (place.source / "rules/two.yml").write_text("title: x\n  broken: [\n")


def brackets(place: Place) -> None:
    (place.source / "rules/two.yml").write_text("[" * 100_000)


def aliases(place: Place) -> None:
    rows = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    rows += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (place.source / "rules/two.yml").write_text("\n".join(rows))


def nuls(place: Place) -> None:
    (place.source / "rules/two.yml").write_bytes(bytes(4096))


def empty(place: Place) -> None:
    (place.source / "rules/two.yml").write_text("")


def action(place: Place) -> None:
    rule = (place.source / "rules/one.yml").read_text().replace("level: low", "level: low\nresponse: kill")
    (place.source / "rules/one.yml").write_text(rule)


def unknown_field(place: Place) -> None:
    text = content_helpers.RULE.format(title="x", number=2, word="x").replace("CommandLine", "NoSuchField")
    (place.source / "rules/two.yml").write_text(text)


def failing_sample(place: Place) -> None:
    (place.source / "rules/one.samples.yml").write_text(content_helpers.SAMPLES.format(word="good"))


def golden_differs(place: Place) -> None:
    (place.source / "golden/expect.yaml").write_text("00000000-0000-4000-8000-000000000001: 2\n")


def no_golden(place: Place) -> None:
    shutil.rmtree(place.source / "golden")


def matches_everything(place: Place) -> None:
    text = content_helpers.RULE.format(title="all", number=9, word="'*'")
    (place.source / "rules/all.yml").write_text(text)


def no_rules(place: Place) -> None:
    (place.source / "rules/one.yml").write_text("title: x\nlogsource: {product: windows, category: registry_set}\n"
                                                "detection:\n  selection: {Image: x}\n  condition: selection\n")


def placeholder_without_list(place: Place) -> None:
    text = content_helpers.RULE.format(title="x", number=3, word="'%nobody%'").replace("CommandLine",
                                                                                    "CommandLine|expand")
    (place.source / "rules/three.yml").write_text(text)


@pytest.mark.parametrize(("spoil", "words"), [
    (broken_rule, r"rules/two\.yml:\d"),
    (brackets, r"rules/two\.yml:\d+: nested deeper"),
    (aliases, r"rules/two\.yml:1: anchors and aliases"),
    (nuls, r"rules/two\.yml:1: not YAML"),
    (empty, r"rules/two\.yml:1: the file holds no rule"),
    (action, r"rules/one\.yml:8: a rule of a release may not have the key 'response'"),
    (unknown_field, r"rules/two\.yml:5: .*NoSuchField"),
    (failing_sample, r"one\.samples\.yml:2: .*does not match a positive sample"),
    (golden_differs, r"golden/expect\.yaml: \+00000000"),
    (no_golden, "golden: no golden recording in it"),
    (matches_everything, r"golden/expect\.yaml: \+00000000-0000-4000-8000-000000000009 \(all\): 3"),
    (no_rules, "no rule in it that this sensor can run"),
    (placeholder_without_list, r"three\.yml:.*nobody"),
])
@pytest.mark.contract("content-2a", "content-2b")
@pytest.mark.hostile("hostile-content")
def test_a_release_that_may_not_run_is_refused_with_its_place_and_what_runs_stays(
        place: Place, spoil: Callable[[Place], None], words: str) -> None:
    """Well signed, and wrong: the reason is said, the id is poisoned, nothing is left on disk."""
    spoil(place)
    path = place.next()
    before = place.state()
    with pytest.raises(ContentError, match=words):
        place.stage(path)
    after = place.state()
    assert (after.running, after.trial) == (before.running, None)
    assert after.bad == {id_of(path): "load"}
    assert after.loads["refused"] == 1
    assert os.listdir(Path(place.store, "releases")) == [place.good]
    with pytest.raises(UsageError, match="not tried again"):
        place.stage(path)


@pytest.mark.contract("content-1a")
def test_unsigned_wrongly_signed_or_changed_releases_are_refused(place: Place) -> None:
    """Before a byte of their files is looked at; and nobody's id is poisoned by somebody else's forgery."""
    for path, words in ((place.next(pems=()), "signed by 0"), (place.next(pems=(OTHER_PEM,)), "signed by 0")):
        with pytest.raises(ContentError, match=words):
            place.stage(path)
    files = archive.unpack(place.next().read_bytes(), "x")
    changed = place.folder / "changed.tar.zst"
    for name, data in (("rules/one.yml", b"title: other"), (manifest.NAME, files[manifest.NAME] + b" "),
                       ("rules/more.yml", b"")):
        changed.write_bytes(archive.write({**files, name: data}))
        with pytest.raises(ContentError):
            place.stage(changed)
    assert place.state().bad == {}
    assert place.state().running == place.good


def test_two_of_two_keys(place: Place) -> None:
    """The threshold is the operator's."""
    settings = replace(SETTINGS, keys=(PUBLIC, OTHER_PUBLIC), threshold=2)
    with pytest.raises(ContentError, match="signed by 1"):
        store.stage(str(place.next()), place.store, settings, {})
    path = place.next(pems=(PEM, OTHER_PEM))
    assert len(store.stage(str(path), place.store, settings, {})[0].signers) == 2


@pytest.mark.contract("content-1b")
def test_unsigned_content_is_taken_from_a_trusted_path_only(place: Place) -> None:
    """By where it really is, not by a link to it; and a signature that is there must be sound even so."""
    trusted, elsewhere = place.folder / "trusted", place.folder / "trusted-not"
    for folder in (trusted, elsewhere):
        folder.mkdir()
        release(place.source, folder / "r.tar.zst", 6, pems=())
    settings = replace(SETTINGS, trusted=(str(trusted),))
    (trusted / "link.tar.zst").symlink_to(elsewhere / "r.tar.zst")
    for path in (elsewhere / "r.tar.zst", trusted / "link.tar.zst"):
        with pytest.raises(ContentError):
            store.stage(str(path), place.store, settings, {})
    assert store.stage(str(trusted / "r.tar.zst"), place.store, settings, {})[0].signers == ()
    release(place.source, trusted / "w.tar.zst", 7, pems=(OTHER_PEM,))
    with pytest.raises(ContentError, match="signed by 0"):
        store.stage(str(trusted / "w.tar.zst"), place.store, settings, {})


@pytest.mark.contract("content-1a")
@pytest.mark.hostile("hostile-content")
def test_old_expired_and_too_new_releases_are_refused(place: Place) -> None:
    """Versions rise; what has expired is not begun; what needs other events says so."""
    with pytest.raises(UsageError, match="allow-downgrade"):
        place.stage(release(place.source, place.folder / "old", 4))
    with pytest.raises(ContentError, match="expired at 2001"):
        place.stage(release(place.source, place.folder / "exp", 7, expires=1_000_000_000))
    files = pack.make(str(place.source), "rules", 8, FAR)
    raw = json.loads(files[manifest.NAME])
    newer = json.dumps({**raw, "schema": 99}).encode()
    (place.folder / "new").write_bytes(archive.write(content_helpers.signed({**files, manifest.NAME: newer}, PEM)))
    with pytest.raises(ContentError, match="update the sensor"):
        place.stage(place.folder / "new")
    assert place.stage(release(place.source, place.folder / "old", 4), downgrade=True) == place.state().staged


@pytest.mark.contract("content-8c")
def test_a_revocation_ends_a_release_that_runs(place: Place) -> None:
    """Alone, or in a newer release; signed like any."""
    (place.folder / "none").mkdir()
    path = release(place.folder / "none", place.folder / "revocation", 1, revokes=(place.good,))
    assert store.stage(str(path), place.store, SETTINGS, {})[1] == {"revoked": 1}
    assert (place.state().running, place.state().bad) == (None, {place.good: "revoked"})
    with pytest.raises(UsageError, match="revoked"):
        place.stage(place.folder / "good.tar.zst")


@pytest.mark.contract("content-4")
def test_who_asks_for_new_releases_learns_why_one_is_not_tried_again(place: Place) -> None:
    """The timer offers a release each day; that it was staged before is not why it is left alone."""
    path = place.next()
    assert store.seen(str(path), place.store, SETTINGS) == ""
    place.stage(path)
    assert store.seen(str(path), place.store, SETTINGS) == "was staged before"
    with states.changing(place.store) as state:
        states.rollback(state, "crash", 2.0)
    assert store.seen(str(path), place.store, SETTINGS) == "is not tried again (crash)"


@pytest.mark.hostile("full-disk")
def test_a_full_disk_while_writing_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the state nor the directory of releases."""
    path = place.next()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostError, match="No space left"):
        place.stage(path)
    monkeypatch.undo()
    assert (place.state().running, place.state().trial, place.state().bad) == (place.good, None, {})
    assert os.listdir(Path(place.store, "releases")) == [place.good]
    shutil.copytree(Path(place.store, "releases", place.good), Path(place.store, "releases/.new-killed"))
    place.stage(path)
    assert len(os.listdir(Path(place.store, "releases"))) == 2


@pytest.mark.hostile("hostile-content")
def test_a_bit_that_flipped_on_disk_is_noticed_before_it_is_read(place: Place) -> None:
    """In a rule or in the manifest itself."""
    folder = Path(store.place(place.store, place.good))
    assert intact(str(folder), place.good).version == 5
    for name in ("rules/one.yml", manifest.NAME):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
        with pytest.raises(ContentError):
            intact(str(folder), place.good)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"\x28\xb5\x2f\xfd", b"PK\x03\x04", bytes(1 << 20)])
@pytest.mark.contract("content-7a")
def test_what_is_no_release_is_refused_by_the_child(place: Place, data: bytes) -> None:
    """With the path and the reason, whatever it is."""
    (place.folder / "x").write_bytes(data)
    with pytest.raises(ContentError, match=str(place.folder / "x")):
        place.stage(place.folder / "x")


# --- the child itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(("deed", "words"), [
    ("spin", "processor time"), ("swell", "memory"), ("crash", "signal 11"), ("gush", "answer of more"),
    ("network", "PermissionError"), ("program", "PermissionError"), ("sleep", "took more than 2 s"),
])
@pytest.mark.contract("content-7a")
def test_a_child_that_is_taken_over_gets_nowhere(deed: str, words: str) -> None:
    """No endless loop, no memory, no flood of output, no socket, no other program."""
    code = "from tests.unit import content_hostile; import sys; print(content_hostile.reason(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, deed], capture_output=True, text=True, check=True, timeout=120)
    assert words in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
def test_a_child_of_root_is_nobody() -> None:
    """User, groups and capabilities are gone before anything is parsed."""
    code = "from tests.unit import content_hostile; print(content_hostile.reason('whoami'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("uid ")
    assert "uid 0 " not in done.stdout
    assert "CapEff 0000000000000000" in done.stdout


@pytest.mark.contract("content-7a")
def test_an_answer_of_a_child_that_was_taken_over_is_not_believed() -> None:
    """Names are checked again by who reads it."""
    from sensor.content import tasks

    for data in (b"\x01", b"\x04\x00\xff\xff\x00\x00name", b"\x05\x00\x00\x00\x00\x00../xx",
                 b"\x01\x00\x00\x00\x00\x00a" * 2):
        with pytest.raises(ContentError):
            tasks.pieces(data, "x")


def test_limits_of_the_contract() -> None:
    """300 MB and two seconds, as promised."""
    assert sandbox.Limits().memory == 300 << 20
    assert sandbox.Limits().cpu == 2


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.contract("content-6")
def test_commands_from_key_to_rollback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """keygen, pack, sign, verify, stage, promote, show, rollback: none of them needs a running sensor."""
    key, out, settings, place = (str(tmp_path / name) for name in ("key", "r.tar.zst", "s.yaml", "store"))
    folder = source(tmp_path / "source")
    assert call(["content", "keygen", key]) == 0
    public = capsys.readouterr().out.strip()
    assert signing.is_public(public)
    assert os.stat(key).st_mode & 0o777 == 0o600
    assert call(["content", "keygen", key]) == 2  # an old key is never overwritten
    Path(settings).write_text(f"content:\n  keys: ['{public}']\n")
    assert call(["content", "pack", str(folder), out, "--version", "1"]) == 0
    assert call(["content", "verify", out, "-c", settings]) == 2
    assert call(["content", "sign", out, "--key", key]) == 0
    capsys.readouterr()
    assert call(["content", "verify", out, "-c", settings, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["version"], report["report"]["alerts"], report["report"]["samples"]) == (1, 1, 2)
    assert call(["rules", "promote", "--store", place]) == 3
    assert call(["rules", "stage", out, "-c", settings, "--store", place]) == 0
    for _ in range(3):
        assert call(["rules", "promote", "--store", place]) == 0
    assert call(["rules", "promote", "--store", place]) == 2
    assert call(["content", "show", "--store", place]) == 0
    assert "known good" in capsys.readouterr().out
    assert call(["rules", "rollback", "--store", place]) == 0
    assert "built-in" in capsys.readouterr().out
    assert call(["rules", "rollback", "--store", place]) == 2
    assert call(["rules", "stage", out, "-c", settings, "--store", place]) == 2
    assert call(["rules", "stage", out, "-c", settings, "--store", place, "--retry"]) == 0


def test_pack_refuses_what_no_sensor_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The publisher is told first, by name."""
    folder = source(tmp_path / "source")
    (folder / "rules/tool.py").write_text("")
    assert call(["content", "pack", str(folder), str(tmp_path / "r"), "--version", "1"]) == 2
    assert "rules/tool.py" in capsys.readouterr().err
    assert call(["content", "pack", str(folder), str(tmp_path / "r"), "--version", "1", "--expires", "soon"]) == 2
