"""What a release says about itself, and its signatures: what is no manifest is refused with a reason."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.content import manifest, signing
from sensor.content.manifest import File, Manifest
from sensor.errors import ContentError, UsageError
from tests.unit.content_helpers import OTHER_PEM, OTHER_PUBLIC, PEM, PUBLIC

EMPTY = hashlib.sha256(b"").hexdigest()
PLAIN = Manifest("rules", 3, 1, 1_800_000_000, {"rules/a.yml": File(EMPTY, 0), "lists/bad.txt": File(EMPTY, 0),
                                               "golden/day.jsonl.zst": File(EMPTY, 0)}, ("0" * 64,))

names = st.from_regex(r"rules/[a-z0-9_]{1,20}/[a-z][a-z0-9.-]{0,20}\.ya?ml", fullmatch=True)
manifests = st.builds(
    Manifest, st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True), st.integers(1, 2**53), st.integers(1, 99),
    st.integers(0, 4_000_000_000),
    st.dictionaries(names, st.builds(File, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.integers(0, 1000)),
                    max_size=8),
    st.lists(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), max_size=3).map(tuple))
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                           lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner,
                                                                                       max_size=4), max_leaves=12)


def changed(**values: Any) -> bytes:
    """The plain manifest with other values; one that is ... is left out."""
    value = {**json.loads(PLAIN.dump()), **values}
    return json.dumps({key: item for key, item in value.items() if item is not ...}).encode()


@given(manifests)
def test_what_is_written_is_read_as_the_same(written: Manifest) -> None:
    """Nothing is lost on the way, and the bytes are the same every time."""
    assert manifest.parse(written.dump()) == written
    assert manifest.parse(written.dump()).dump() == written.dump()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_content_error(data: bytes) -> None:
    """No other exception comes out, whatever goes in."""
    try:
        manifest.parse(data)
    except ContentError:
        return
    raise AssertionError("random bytes were taken for a manifest")


@given(st.sampled_from(sorted(json.loads(PLAIN.dump()))), json_values)
def test_any_value_of_any_key_is_sound_or_refused(key: str, value: Any) -> None:
    """What is taken can be written and read again."""
    try:
        found = manifest.parse(changed(**{key: value}))
    except ContentError:
        return
    assert manifest.parse(found.dump()) == found


@pytest.mark.parametrize(("data", "words"), [
    (b"", "no JSON"),
    (b"[" * 100_000, "no "),
    (b'{"a": 1, "a": 2}', "twice"),
    (b'{"version": ' + b"9" * 5000 + b"}", "no manifest"),
    (b"\xff", "no manifest"),
    (b" " * (manifest.MAX_MANIFEST + 1), "larger"),
    (changed(version=...), "no key 'version'"),
    (changed(hooks=["kprobe"]), "unknown key 'hooks'"),
    (changed(version=1.5), "not a whole one"),
    (changed(version=True), "version must be"),
    (changed(version=0), "version must be"),
    (changed(format=2), "update the sensor"),
    (changed(expires="never"), "expires"),
    (changed(expires="2027-13-01T00:00:00Z"), "expires"),
    (changed(name="../x"), "name"),
    (changed(kind="plugin"), "kind"),
    (changed(kind="revocation"), "no files"),
    (changed(revokes=["x"]), "revokes"),
    (changed(files=[]), "files"),
    (changed(files={"rules/a.yml": {"sha256": EMPTY}}), "sha256 and size"),
    (changed(files={"rules/a.yml": {"sha256": EMPTY.upper(), "size": 0}}), "sha256 and size"),
    (changed(files={"rules/a.yml": {"sha256": EMPTY, "size": 2 << 20}}), "size must be"),
    (changed(files={f"golden/{n}.jsonl": {"sha256": EMPTY, "size": 16 << 20} for n in range(4)}), "together"),
])
def test_what_is_no_manifest_is_refused_with_the_reason(data: bytes, words: str) -> None:
    """A sentence for the operator, and nothing else."""
    with pytest.raises(ContentError, match=words):
        manifest.parse(data)


@pytest.mark.parametrize("name", [
    "../rules/a.yml", "/etc/passwd", "rules/../../a.yml", "rules//a.yml", "rules/.hidden.yml", "rules/a\n.yml",
    "rules/a\x1b[2J.yml", "rules/a b.yml", "rules/ä.yml", "a/" * 9 + "a.yml", "rules/" + "a" * 100 + ".yml", "", ".",
])
def test_a_name_that_leads_out_or_can_harm_a_terminal_is_refused(name: str) -> None:
    """Components are plain words."""
    assert manifest.check_name(name) is not None
    with pytest.raises(ContentError):
        manifest.parse(changed(files={name: {"sha256": EMPTY, "size": 0}}))


@pytest.mark.parametrize("name", ["sensor.yaml", "rules/a.py", "rules/a.so", "hooks/a.yml", "probes/a.c",
                                  "lists/a.yml",
                                  "lists/deep/a.txt", "golden/a.parquet", "actions/a.yml", "rules.yml", "state.json"])
@pytest.mark.contract("content-8d")
def test_content_is_rules_lists_and_golden_recording_only(name: str) -> None:
    """Whatever could bring hooks, actions or settings has no place in it."""
    with pytest.raises(ContentError, match="nothing else is taken"):
        manifest.parse(changed(files={name: {"sha256": EMPTY, "size": 0}}))


@pytest.mark.contract("content-1a")
def test_files_must_be_those_of_the_manifest() -> None:
    """One more, one less, one other: refused by its name."""
    about = Manifest("rules", 1, 1, 0, {"rules/a.yml": File(hashlib.sha256(b"a").hexdigest(), 1)})
    manifest.check_files(about, {"rules/a.yml": b"a", manifest.NAME: b"", manifest.SIGNATURES: b""}, "r")
    for files, words in (({}, "not in the release"), ({"rules/a.yml": b"b"}, "hash differs"),
                         ({"rules/a.yml": b"a", "rules/b.yml": b""}, "not in its manifest")):
        with pytest.raises(ContentError, match=words):
            manifest.check_files(about, files, "r")


@pytest.mark.contract("content-1a")
def test_m_of_n_keys_must_have_signed() -> None:
    """Each counts once, however often it signed; one that is not configured doesn't count."""
    one, two = signing.sign(b"m", PEM), signing.sign(b"m", OTHER_PEM)
    both = signing.added(signing.added(b"", one), two)
    keys = (PUBLIC, OTHER_PUBLIC)
    assert len(signing.verify(b"m", both, keys, 2, "r")) == 2
    assert signing.verify(b"m", one + b"\n", (PUBLIC,), 1, "r") == (signing.key_id(PUBLIC),)
    for signatures, known, threshold in ((one + b"\n" + one, keys, 2), (both, (PUBLIC,), 2), (b"", keys, 1),
                                         (two, (PUBLIC,), 1), (both, (), 1)):
        with pytest.raises(ContentError):
            signing.verify(b"m", signatures, known, threshold, "r")


@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_any_other_bytes_are_no_signature(data: bytes, at: int) -> None:
    """Not noise, and not a signature with one bit changed."""
    line = bytearray(signing.sign(b"m", PEM))
    line[at % len(line)] ^= 1 << at % 7
    assert signing.signers(b"m", data, (PUBLIC,)) == ()
    assert signing.signers(b"m", bytes(line), (PUBLIC,)) == ()
    assert signing.signers(b"other", signing.sign(b"m", PEM), (PUBLIC,)) == ()


def test_a_new_signature_of_a_key_replaces_the_old() -> None:
    """Signing again after a change leaves no stale line."""
    lines = signing.added(signing.added(b"", signing.sign(b"old", PEM)), signing.sign(b"new", PEM))
    assert lines == signing.sign(b"new", PEM) + b"\n"


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_private_key_is_said(pem: bytes) -> None:
    """No traceback of the library."""
    with pytest.raises(UsageError, match="no private key"):
        signing.sign(b"m", pem)
