"""The question of a DNS query (RFC 1035, section 4), read with strict bounds.

The message is whatever a process sent to port 53: it is hostile until proven otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

_HEADER = 12
_NAME_MAX = 255  # RFC 1035, 2.3.4: labels, their lengths and the root
_LABEL_MAX = 63

#: Types with a name of their own in IANA's registry that resolvers ask for; others show as numbers.
TYPES: dict[int, str] = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT",
    17: "RP", 24: "SIG", 25: "KEY", 28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 37: "CERT", 39: "DNAME",
    41: "OPT", 43: "DS", 44: "SSHFP", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 51: "NSEC3PARAM",
    52: "TLSA", 53: "SMIMEA", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY", 64: "SVCB", 65: "HTTPS", 99: "SPF",
    249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA",
}


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked. ``name`` has no trailing dot, except for the root itself (``.``)."""

    name: str
    type: str


def question(message: bytes) -> Question | None:
    """The first question of *message*, or None where it is no sound query.

    Refused: responses, no question, a label or number beyond the end, a name over 255 bytes, and
    compression pointers, which a first question has nothing to point to. Bytes that are no UTF-8
    survive by surrogateescape; a dot or backslash inside a label is escaped by a backslash.
    """
    if len(message) < _HEADER or message[2] & 0x80 or not (message[4] or message[5]):
        return None
    labels: list[str] = []
    at = _HEADER
    while True:
        if at >= len(message):
            return None
        length = message[at]
        at += 1
        if length == 0:
            break
        if length > _LABEL_MAX or at + length - _HEADER >= _NAME_MAX:
            return None
        label = message[at:at + length]
        if len(label) < length:
            return None
        labels.append(_label_text(label))
        at += length
    if at + 4 > len(message):
        return None
    number = int.from_bytes(message[at:at + 2], "big")
    return Question(".".join(labels) or ".", TYPES.get(number, str(number)))


def _label_text(label: bytes) -> str:
    text = label.decode("utf-8", "surrogateescape")
    if "\\" in text or "." in text:
        text = text.replace("\\", "\\\\").replace(".", "\\.")
    return text
