"""Ed25519 signatures of manifests, m of n keys. Source: RFC 8032.

Keys and signatures are single lines of text, so that nothing has to be parsed before something is
verified. ``cryptography`` is imported when the first key is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence

from sensor.errors import ContentError, UsageError

PREFIX = "ed25519:"
MAX_SIGNATURES = 32
#: In front of what is signed: a signature of something else can't be used here.
_DOMAIN = b"sensor content 1\n"
_LINE = re.compile(rb"([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)")
_PUBLIC = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")


def is_public(text: str) -> bool:
    """Whether a text has the form of a public key, ``ed25519:BASE64``."""
    return _PUBLIC.fullmatch(text) is not None


def key_id(public: str) -> str:
    """The short name of a key in signatures and metrics."""
    return hashlib.sha256(_raw(public)).hexdigest()[:16]


def _raw(public: str) -> bytes:
    if not is_public(public):
        raise UsageError(f"{public[:80]!r} is no public key: ed25519: and 44 characters, "
                         "as `sensor content keygen` writes it")
    return base64.b64decode(public[len(PREFIX):])


def generate() -> tuple[bytes, str]:
    """A new key: private part as PEM (PKCS 8, not encrypted), public part as text."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                serialization.NoEncryption())
    return pem, _public_text(private)


def _public_text(private: object) -> str:
    from cryptography.hazmat.primitives import serialization

    raw: bytes = private.public_key().public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return PREFIX + base64.b64encode(raw).decode()


def sign(manifest: bytes, pem: bytes, path: str = "the key") -> bytes:
    """One line of signature, without its end. Raises UsageError where *pem* is no such private key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        private = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is no private key: {str(error)[:200]}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(f"{path} is no Ed25519 key; make one: sensor content keygen FILE")
    name = key_id(_public_text(private))
    return name.encode() + b" " + base64.b64encode(private.sign(_DOMAIN + manifest))


def added(signatures: bytes, line: bytes) -> bytes:
    """Signatures with one more; a new one of the same key replaces the old."""
    lines = [each for each in signatures.splitlines() if each and each[:16] != line[:16]]
    return b"".join(each + b"\n" for each in sorted([*lines, line]))


def signers(manifest: bytes, signatures: bytes, keys: Sequence[str]) -> tuple[str, ...]:
    """Ids of those *keys* that have signed, each once. Hostile signatures are only not counted."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    known = {key_id(key): _raw(key) for key in keys}
    found = set()
    for line in signatures.splitlines()[:MAX_SIGNATURES]:
        match = _LINE.fullmatch(line)
        name = match[1].decode() if match else ""
        if match is None or name not in known or name in found:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(known[name]).verify(base64.b64decode(match[2]), _DOMAIN + manifest)
        except (InvalidSignature, binascii.Error, ValueError):
            continue
        found.add(name)
    return tuple(sorted(found))


def verify(manifest: bytes, signatures: bytes, keys: Sequence[str], threshold: int, path: str) -> tuple[str, ...]:
    """Ids of the keys that have signed, at least *threshold* of them. Raises ContentError."""
    if not keys:
        raise ContentError(path, None, "no key is configured that could have signed it",
                           "name the publisher's in content.keys, or its path in content.trusted")
    found = signers(manifest, signatures, keys)
    if len(found) < threshold:
        raise ContentError(path, None, f"signed by {len(found)} of the keys in content.keys, {threshold} are needed")
    return found
